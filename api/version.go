package api

import (
	"slices"
	"time"
)

// Deployment asks for a version of a service to run.
type Deployment struct {
	Overrides
	Branch  string            `json:"branch,omitempty" doc:"The Git branch the version was named after"`
	Owner   string            `json:"owner,omitempty" doc:"Whose version it is from now on. Default: who deploys"`
	Source  string            `json:"source,omitempty" doc:"Where the deployment came from: cli, api, file, ci" example:"cli"`
	Origin  Origin            `json:"origin,omitzero" doc:"The change it was made from, and the build that made it"`
	Note    string            `json:"note,omitempty" doc:"What the version is for. Without one, the version keeps the one it has" example:"demo on Friday"`
	Labels  map[string]string `json:"labels,omitempty" doc:"Added to those of the version; one without a value is taken away" example:"{\"team\":\"payments\"}"`
	Timeout Duration          `json:"timeout,omitzero" doc:"How long it may take to become healthy. Default: the service's"`

	TTL          Duration  `json:"ttl,omitzero" doc:"How long it may live without activity, before it is removed; never for no end. Default: as deployed before, else the service's" example:"72h"`
	IdleSleep    Duration  `json:"idle_sleep,omitzero" doc:"After how long without activity it falls asleep; never for not at all. Default: as deployed before, else the service's" example:"30m"`
	ProtectUntil time.Time `json:"protect_until,omitzero" doc:"It is not removed before, whatever its ttl. Default: as deployed before"`
}

// State says what a version does, in the words of `layover ls`.
type State string

// The states of a version.
const (
	StateStarting State = "starting" // being started, or restarted after its instance ended
	StateRunning  State = "running"  // at least one instance is healthy
	StateAsleep   State = "asleep"   // has no instance; a request starts one
	StateStopping State = "stopping" // draining and ending
	StateRemoving State = "removing" // its instances have ended, its teardown has not succeeded yet
	StateStopped  State = "stopped"  // stopped by a person; has no route
	StateFailed   State = "failed"   // did not start, or keeps ending; Reason says why
)

// Version is one version of one service, as it is now.
type Version struct {
	Service     string            `json:"service"`
	Name        string            `json:"name"`
	State       State             `json:"state" enum:"starting,running,asleep,stopping,removing,stopped,failed" doc:"What it does"`
	Reason      string            `json:"reason,omitempty" doc:"Why it is not running, or why its newest generation is not"`
	LogTail     []string          `json:"log_tail,omitempty" doc:"Last lines of the instance that failed"`
	Default     bool              `json:"default,omitempty" doc:"It is the default version of its service"`
	Generation  int64             `json:"generation" doc:"Counts the deployments of this version"`
	Serving     int64             `json:"serving,omitempty" doc:"The generation that answers; 0 where none does"`
	Runtime     string            `json:"runtime"`
	Run         Run               `json:"run,omitzero" doc:"What runs, the service's template and the version's overrides taken together"`
	EnvNames    []string          `json:"env_names,omitempty" doc:"Names of its environment variables; values are not shown"`
	OutputNames []string          `json:"output_names,omitempty" doc:"Names of the variables that its setup gave; values are not shown"`
	Teardown    *Teardown         `json:"teardown,omitempty" doc:"How its teardown goes, while it is being removed"`
	Branch      string            `json:"branch,omitempty"`
	Owner       string            `json:"owner,omitempty"`
	Source      string            `json:"source,omitempty" doc:"Where its newest deployment came from" example:"ci"`
	Origin      Origin            `json:"origin,omitzero" doc:"The change its newest deployment was made from, and the build that made it"`
	Note        string            `json:"note,omitempty" doc:"What it is for"`
	Labels      map[string]string `json:"labels,omitempty"`
	CreatedAt   time.Time         `json:"created_at"`
	DeployedAt  time.Time         `json:"deployed_at"`
	Requests    uint64            `json:"requests" doc:"Requests answered since the server started"`
	Lease       *Lease            `json:"lease,omitempty" doc:"When it sleeps and how long it may live; left out for default versions and where neither is set"`
	PreviewURL  string            `json:"preview_url,omitempty" doc:"URL that selects this version without a header"`
	Replicas    int               `json:"replicas,omitempty" doc:"How many instances it is to have"`
	Healthy     int               `json:"healthy,omitempty" doc:"How many instances of the generation that answers are healthy; one is enough to answer"`
	Instances   []Instance        `json:"instances,omitempty"`
}

// ID returns service@version.
func (v Version) ID() string { return v.Service + "@" + v.Name }

// Lease says when a version falls asleep, and how long it may live.
type Lease struct {
	TTL          Duration  `json:"ttl,omitzero" doc:"How long it may live without activity"`
	IdleSleep    Duration  `json:"idle_sleep,omitzero" doc:"After how long without activity it falls asleep"`
	ActiveAt     time.Time `json:"active_at" doc:"Last activity: a request, stream or WebSocket, or a deployment"`
	SleepsAt     time.Time `json:"sleeps_at,omitzero" doc:"When it falls asleep if nothing happens"`
	EndsAt       time.Time `json:"ends_at,omitzero" doc:"When it is removed if nothing happens"`
	ProtectUntil time.Time `json:"protect_until,omitzero" doc:"It is not removed before"`
}

// Extension makes a lease longer: by a time, or until one; where both are left out, by its ttl from now.
type Extension struct {
	By    Duration  `json:"by,omitzero" doc:"Added to what is left" example:"48h"`
	Until time.Time `json:"until,omitzero" doc:"The new end, later than the present one"`
}

// Instance is one running copy of a version.
type Instance struct {
	ID         string    `json:"id"`
	Generation int64     `json:"generation"`
	Addresses  []string  `json:"addresses,omitempty" doc:"host:port"`
	Healthy    bool      `json:"healthy"`
	Health     string    `json:"health,omitempty" doc:"The last health check in words"`
	StartedAt  time.Time `json:"started_at"`
	Images     []Image   `json:"images,omitempty" doc:"What it really runs, where its runtime can tell: of an adopted ECS service an entry for each image that its tasks run"`
	Base       *Base     `json:"base,omitempty" doc:"What it was copied from, and how far that has moved on since; left out where it is no copy"`
}

// Image is a container image that runs.
type Image struct {
	Name   string `json:"name,omitempty" doc:"As it was asked for" example:"registry.example.com/cart:main"`
	Digest string `json:"digest,omitempty" doc:"What a tag stood for when it was started. Of the runtime docker it is the ID of the image" example:"sha256:4c1f2ab34567"`
	Commit string `json:"commit,omitempty" doc:"The commit that its labels name" example:"16248e9"`
	Copies int    `json:"copies" doc:"How many containers run it"`
}

// Base is what an instance was copied from.
type Base struct {
	Template string   `json:"template" doc:"Where the copy is from" example:"ECS service cart"`
	Copied   string   `json:"copied" doc:"What was copied: the task definition that the template had" example:"cart:41"`
	Current  string   `json:"current,omitempty" doc:"What would be copied today; left out where that is not known" example:"cart:44"`
	Behind   int      `json:"behind,omitempty" doc:"How many revisions the template has moved on; below 0 where it went back, 0 also where they do not compare"`
	Changes  []string `json:"changes,omitempty" doc:"In what they differ, in words: the values of sizes, images and commits, of variables and secrets only the names" example:"[\"environment LOG_LEVEL added\",\"memory 512 → 1024\"]"`
}

// Moved says whether a copy that is made today would be of something else.
func (b *Base) Moved() bool { return b != nil && b.Current != "" && b.Current != b.Copied }

// Images returns what the instances of the version really run, what most run first.
func (v Version) Images() []Image {
	var out []Image
	for _, i := range v.Instances {
		for _, image := range i.Images {
			at := slices.IndexFunc(out, image.same)
			if at < 0 {
				out = append(out, image)
				continue
			}
			out[at].Copies += image.Copies
		}
	}
	slices.SortStableFunc(out, func(a, b Image) int { return b.Copies - a.Copies })
	return out
}

// same says whether two are one image.
func (i Image) same(other Image) bool {
	i.Copies = other.Copies
	return i == other
}

// Base returns what the version was copied from: of several copies the one that is the farthest behind. It is nil
// where no instance is a copy.
func (v Version) Base() *Base {
	var out *Base
	for _, i := range v.Instances {
		if b := i.Base; b != nil && (out == nil || b.Moved() && (!out.Moved() || b.Behind > out.Behind)) {
			out = b
		}
	}
	return out
}

// Generation is one deployment of a version, as its history has it.
type Generation struct {
	Number   int64           `json:"number" doc:"Counts the deployments of the version"`
	State    GenerationState `json:"state" enum:"pending,serving,failed,superseded" doc:"How far it came"`
	Served   bool            `json:"served,omitempty" doc:"It came up once: a rollback may go back to it"`
	Reason   string          `json:"reason,omitempty" doc:"Why it failed"`
	Again    int64           `json:"again,omitempty" doc:"The generation whose command and variables it runs again, as a rollback, restart or start does"`
	Runtime  string          `json:"runtime"`
	Run      Run             `json:"run,omitzero"`
	EnvNames []string        `json:"env_names,omitempty" doc:"Names of its environment variables; values are not shown"`
	Replicas int             `json:"replicas" doc:"How many instances it has, or had last"`
	Owner    string          `json:"owner,omitempty" doc:"Who deployed it"`
	Source   string          `json:"source,omitempty" doc:"Where that deployment came from"`
	At       time.Time       `json:"at" doc:"When it was asked for"`
}

// GenerationState says how far a generation came.
type GenerationState string

// The states of a generation.
const (
	GenerationPending    GenerationState = "pending"    // wanted, not yet healthy
	GenerationServing    GenerationState = "serving"    // became healthy; the one that answers
	GenerationFailed     GenerationState = "failed"     // did not become healthy
	GenerationSuperseded GenerationState = "superseded" // something else was wanted later
)

// Rollback says to which generation a version goes back.
type Rollback struct {
	To int64 `json:"to,omitempty" minimum:"0" doc:"Number of a generation that served. Default: the newest one that served besides the one that does now"`
}

// Scale says how many instances a version has from now on.
type Scale struct {
	Replicas int `json:"replicas" minimum:"1" maximum:"100" doc:"How many instances"`
}

// LogLine is one line an instance wrote, or that Layover says about its log.
type LogLine struct {
	Time       time.Time `json:"time" doc:"Of each stream of an instance every line is later than the one before"`
	Service    string    `json:"service,omitempty"`
	Version    string    `json:"version,omitempty"`
	Generation int64     `json:"generation,omitempty"`
	Instance   string    `json:"instance,omitempty"`
	Stream     string    `json:"stream,omitempty" enum:"stdout,stderr,layover" doc:"layover where the instance did not write it: another instance begins, lines are missing, the version is removed"`
	Text       string    `json:"text"`
	Trace      string    `json:"trace,omitempty" doc:"Trace id that the text names, as 32 hex digits"`
	Span       string    `json:"span,omitempty" doc:"Span id that it names, as 16 hex digits"`
	Route      string    `json:"route,omitempty" doc:"Route of that trace, where proxies told of it"`
	Partial    bool      `json:"partial,omitempty" doc:"The line was too long: it goes on with the next one of its stream"`
}

// The streams of a log.
const (
	StreamStdout  = "stdout"
	StreamStderr  = "stderr"
	StreamLayover = "layover" // what Layover says about the log
)
