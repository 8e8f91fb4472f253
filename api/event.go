package api

import (
	"strings"
	"time"
)

// Event is one thing that happened in the environment. Events are ordered by ID,
// which only grows, and are kept in the store.
type Event struct {
	ID         int64     `json:"id" doc:"Grows with each event" example:"4711"`
	Time       time.Time `json:"time"`
	Type       EventType `json:"type" enum:"deploy.started,deploy.step,deploy.done,deploy.failed,deploy.superseded,version.stopped,version.removed,version.asleep,version.waking,version.awake,version.not_awake,teardown.failed,teardown.done,teardown.skipped,lease.ending,lease.ended,lease.extended,version.overruled,version.scaled,instance.exited,instance.health,instance.adopted,orphan.found,orphan.ended,service.changed,service.removed,route.changed,route.removed,main.broken,main.mended,gateway.broken,gateway.mended" doc:"What happened"`
	Service    string    `json:"service,omitempty"`
	Version    string    `json:"version,omitempty"`
	Generation int64     `json:"generation,omitempty"`
	Owner      string    `json:"owner,omitempty" doc:"Whose version it was then"`
	Actor      string    `json:"actor,omitempty" doc:"Who caused it, where a person did"`
	Step       Step      `json:"step,omitempty" enum:"setup,pull,start,healthy,routed" doc:"Of deploy.step: which"`
	Took       Duration  `json:"took,omitzero" doc:"Of deploy.step and deploy.done: how long"`
	Message    string    `json:"message" doc:"What happened, for people"`
	LogTail    []string  `json:"log_tail,omitempty" doc:"Of deploy.failed and teardown.failed: last lines of the instance or hook"`
}

// EventType names what happened.
type EventType string

// The types of events.
const (
	EventDeployStarted    EventType = "deploy.started"
	EventDeployStep       EventType = "deploy.step"
	EventDeployDone       EventType = "deploy.done"
	EventDeployFailed     EventType = "deploy.failed"
	EventDeploySuperseded EventType = "deploy.superseded" // a later deploy, stop or removal of the same version won
	EventVersionStopped   EventType = "version.stopped"
	EventVersionRemoved   EventType = "version.removed"
	EventVersionOverruled EventType = "version.overruled" // somebody else than its owner deployed, restarted, stopped or removed it
	EventVersionScaled    EventType = "version.scaled"    // has another number of instances from now on
	EventVersionAsleep    EventType = "version.asleep"
	EventVersionWaking    EventType = "version.waking"    // a request came, or a person asked for it
	EventVersionAwake     EventType = "version.awake"     // its instance is healthy
	EventVersionNotAwake  EventType = "version.not_awake" // its instance did not come up
	EventTeardownFailed   EventType = "teardown.failed"   // it is tried again
	EventTeardownDone     EventType = "teardown.done"
	EventTeardownSkipped  EventType = "teardown.skipped" // a person gave it up
	EventLeaseEnding      EventType = "lease.ending"     // a warning
	EventLeaseEnded       EventType = "lease.ended"      // the version is removed for that
	EventLeaseExtended    EventType = "lease.extended"   // by a person
	EventInstanceExited   EventType = "instance.exited"
	EventInstanceHealth   EventType = "instance.health" // became healthy or unhealthy while serving
	EventInstanceAdopted  EventType = "instance.adopted"
	EventOrphanFound      EventType = "orphan.found" // an instance without a record is there
	EventOrphanEnded      EventType = "orphan.ended" // an instance without a record was ended
	EventServiceChanged   EventType = "service.changed"
	EventServiceRemoved   EventType = "service.removed"
	EventRouteChanged     EventType = "route.changed"
	EventRouteRemoved     EventType = "route.removed"
	EventMainBroken       EventType = "main.broken"    // a test fails on the default versions as well
	EventMainMended       EventType = "main.mended"    // it passes there again
	EventGatewayBroken    EventType = "gateway.broken" // another data plane's configuration cannot be written
	EventGatewayMended    EventType = "gateway.mended" // it is written again
)

// EventTypes returns every type of event.
func EventTypes() []EventType {
	return []EventType{
		EventDeployStarted, EventDeployStep, EventDeployDone, EventDeployFailed, EventDeploySuperseded,
		EventVersionStopped, EventVersionRemoved, EventVersionOverruled, EventVersionScaled, EventVersionAsleep,
		EventVersionWaking, EventVersionAwake, EventVersionNotAwake, EventTeardownFailed, EventTeardownDone, EventTeardownSkipped, EventLeaseEnding, EventLeaseEnded,
		EventLeaseExtended, EventInstanceExited, EventInstanceHealth, EventInstanceAdopted, EventOrphanFound,
		EventOrphanEnded, EventServiceChanged, EventServiceRemoved, EventRouteChanged, EventRouteRemoved, EventMainBroken, EventMainMended,
		EventGatewayBroken, EventGatewayMended,
	}
}

// Matches says whether pattern, a type or the beginning of one and a star such as
// "deploy.*", stands for t.
func (t EventType) Matches(pattern string) bool {
	if begin, ok := strings.CutSuffix(pattern, "*"); ok {
		return strings.HasPrefix(string(t), begin)
	}
	return string(t) == pattern
}

// Step is one step of a deployment.
type Step string

// The steps of a deployment, in their order.
const (
	StepSetup   Step = "setup"   // its setup ran (only where it has one)
	StepPull    Step = "pull"    // the image was fetched (docker only, where missing)
	StepStart   Step = "start"   // the instance runs
	StepHealthy Step = "healthy" // its health check passed
	StepRouted  Step = "routed"  // the proxy sends requests to it
)

// Ends says whether an event of this type ends a deployment.
func (t EventType) Ends() bool {
	return t == EventDeployDone || t == EventDeployFailed || t == EventDeploySuperseded
}
