package route_test

import (
	"fmt"

	"github.com/layover-dev/layover/internal/route"
)

func Example() {
	table, err := route.Compile(route.Spec{Services: []route.Service{{
		Name: "cart",
		Versions: []route.Version{
			{Name: "main", State: route.Ready, Instances: []route.Instance{{ID: "1", Address: "127.0.0.1:9001"}}},
			{Name: "feature-2981", State: route.Ready, Instances: []route.Instance{{ID: "2", Address: "127.0.0.1:9002"}}},
		},
	}}})
	if err != nil {
		panic(err)
	}
	for _, baggage := range []string{"", "dynamic_route=feature-2981", "dynamic_route=feature-1"} {
		d := table.Resolve(&route.Request{Host: "cart.localhost:8080", Baggage: []string{baggage}})
		fmt.Println(d.Version.Next().Address, d.ServedBy())
	}
	// Output:
	// 127.0.0.1:9001 cart@main; by=default
	// 127.0.0.1:9002 cart@feature-2981; route=feature-2981; by=baggage
	// 127.0.0.1:9001 cart@main; route=feature-1; by=baggage; fallback=unknown
}

func ExampleNameOf() {
	fmt.Println(route.NameOf("feature/2981"))
	fmt.Println(route.NameOf("Feature/ABC_12"))
	fmt.Println(route.NameOf("fix//it"))
	// Output:
	// feature-2981
	// feature-abc_12
	// fix-it-775707
}

func ExamplePrependMember() {
	fmt.Println(route.PrependMember([]string{"tenant=t-1,dynamic_route=old"}, "dynamic_route", "cart@pr-88"))
	// Output:
	// [dynamic_route=cart@pr-88,tenant=t-1]
}
