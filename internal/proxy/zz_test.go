package proxy
import ("testing";"net/http";"io";"fmt"
"github.com/layover-dev/layover/internal/route")
func TestZZ(t *testing.T){
 cart := service("cart", ready("main", h2cInstance(t, func(w http.ResponseWriter, r *http.Request){
   w.Header().Set("Trailer", "X-Announced")
   fmt.Println("start", r.Trailer); b,err:=io.ReadAll(r.Body); fmt.Println("end", string(b), err, r.Trailer)
   w.Write(b)
		w.Header().Set("X-Announced", r.Trailer.Get("X-Sum"))
		w.Header().Set(http.TrailerPrefix+"X-Surprise", "yes")
   })))
 cart.Protocol=route.H2C
 w:=newWorld(t, Options{}, cart)
 c:=dial(t,w.addr)
 c.send(t, "POST / HTTP/1.1", "Host: cart.localhost", "Connection: close", "Trailer: X-Sum", "Transfer-Encoding: chunked", "", "5","hello","0","X-Sum: 42","")
 b,_:=io.ReadAll(c.in)
 fmt.Println(string(b))
}
