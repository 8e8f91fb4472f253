package main
import ("testing";"time")
func TestTmpChurn(t *testing.T) { p := churnFull(); p.phase, p.throttled = 30*time.Second, 30*time.Second; r, err := ecsChurn(t.Context(), p); t.Log(r.figure, err, r.ok) }
