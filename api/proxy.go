package api

import (
	"time"

	"github.com/layover-dev/layover/internal/route"
)

// TablePosition says which table one has: its revision, and the epoch in which that counts.
type TablePosition = route.Position

// TableChange is the difference between two revisions of the routing table.
type TableChange = route.Change

// TableUpdate is one message of the table's watch stream: the whole table, at first
// and after a gap, else a change of the revision before. Exactly one of the two is set.
type TableUpdate struct {
	Table  *Table
	Change *TableChange
}

// ProxyReport is what a stand-alone proxy tells the server about itself: when it took up a
// table, when an instance that left has gone idle, and every few seconds.
type ProxyReport struct {
	ID        string            `json:"id" doc:"Names the proxy; the same after a hand-over to a new process"`
	Addresses []string          `json:"addresses,omitempty" doc:"Where it listens"`
	Build     string            `json:"build,omitempty" doc:"Version of its program"`
	StartedAt time.Time         `json:"started_at"`
	Epoch     string            `json:"epoch,omitempty" doc:"Of the table it decides on: revisions of two epochs do not compare"`
	Revision  uint64            `json:"revision" doc:"Of the table it decides on"`
	Draining  []string          `json:"draining,omitempty" doc:"Instances that are not in its table any more and still have requests in flight"`
	Requests  map[string]uint64 `json:"requests,omitempty" doc:"Requests answered since its start, by service@version"`
	Busy      []string          `json:"busy,omitempty" doc:"Versions with requests, streams or WebSockets in progress, as service@version. Reports between the regular ones leave it out"`
}

// Proxy is a stand-alone proxy as the server knows it.
type Proxy struct {
	ProxyReport
	SeenAt time.Time `json:"seen_at" doc:"When its last report came"`
	Behind uint64    `json:"behind" doc:"How many revisions its table is behind the newest; at least 1 where that is of another epoch"`
	Lag    Duration  `json:"lag" doc:"For how long it has been behind; 0 where it is not"`
}
