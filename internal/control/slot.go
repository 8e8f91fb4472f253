package control

import (
	"slices"
	"strconv"

	"github.com/layover-dev/layover/api"
)

// A generation has one or more instances. Each has a number, its slot, which no other
// instance of the generation ever had: what is let go of is never wanted again.

// slots returns the numbers of the instances that g is to have.
func (g *Generation) slots() []int {
	if len(g.Slots) == 0 {
		return []int{1}
	}
	return g.Slots
}

// resize gives g that many instances: those it has stay, as far as they may.
func (g *Generation) resize(n int) {
	slots := slices.Clone(g.slots())
	g.LastSlot = max(g.LastSlot, slots[len(slots)-1])
	for len(slots) < n {
		g.LastSlot++
		slots = append(slots, g.LastSlot)
	}
	g.Slots = slots[:max(n, 1)]
}

// sameSlots says whether g and o are to have the same instances, as far as they are one generation.
func (g *Generation) sameSlots(o *Generation) bool {
	return g == nil || o == nil || g.Number != o.Number || slices.Equal(g.slots(), o.slots())
}

// instanceIDs names the instances that g is to have.
func (g *Generation) instanceIDs(key Key) []string {
	slots := g.slots()
	ids := make([]string, len(slots))
	for i, slot := range slots {
		ids[i] = instanceID(key, g.Number, slot)
	}
	return ids
}

// instanceID names the instance of one slot of a generation; that of the first has the
// shortest name. Names have no "--", so it is unambiguous.
func instanceID(key Key, generation int64, slot int) string {
	id := key.Service + "--" + key.Version + "--" + strconv.FormatInt(generation, 10)
	if slot > 1 {
		id += "." + strconv.Itoa(slot)
	}
	return id
}

// instanceName names an instance to people: where it is the only one, the version is enough.
func instanceName(key Key, r *VersionRecord, generation int64, id string) string {
	if r != nil {
		if g := r.generation(generation); g != nil && len(g.slots()) > 1 {
			return key.String() + ", instance " + id
		}
	}
	return key.String()
}

// checkReplicas refuses a number of instances that what runs cannot have.
func checkReplicas(run api.Run, port, n int) error {
	switch {
	case n < 0 || n > api.MaxReplicas:
		return invalidf("", "a version has 1 to %d instances, and not %d", api.MaxReplicas, n)
	case n > 1 && run.Adopted():
		return invalidf("who runs it says how many addresses it has; leave the number of replicas out",
			"%s is run by somebody else, and Layover cannot give it %d instances", adopted(run), n)
	case n > 1 && run.Process != nil && port != 0:
		return invalidf("leave the port out: each instance gets a free one in PORT",
			"%d instances cannot all listen on port %d of this machine", n, port)
	}
	return nil
}

// adopted names what somebody else runs.
func adopted(run api.Run) string {
	if run.ECS != nil {
		return "the ECS service " + run.ECS.Service
	}
	return run.External.URL
}
