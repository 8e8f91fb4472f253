package api

import "time"

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
}

// State says what a version does, in the words of `layover ls`.
type State string

// The states of a version.
const (
	StateStarting State = "starting" // being started, or restarted after its instance ended
	StateRunning  State = "running"  // at least one instance is healthy
	StateStopping State = "stopping" // draining and ending
	StateStopped  State = "stopped"  // stopped by a person; has no route
	StateFailed   State = "failed"   // did not start, or keeps ending; Reason says why
)

// Version is one version of one service, as it is now.
type Version struct {
	Service    string            `json:"service"`
	Name       string            `json:"name"`
	State      State             `json:"state" enum:"starting,running,stopping,stopped,failed" doc:"What it does"`
	Reason     string            `json:"reason,omitempty" doc:"Why it is not running, or why its newest generation is not"`
	LogTail    []string          `json:"log_tail,omitempty" doc:"Last lines of the instance that failed"`
	Default    bool              `json:"default,omitempty" doc:"It is the default version of its service"`
	Generation int64             `json:"generation" doc:"Counts the deployments of this version"`
	Serving    int64             `json:"serving,omitempty" doc:"The generation that answers; 0 where none does"`
	Runtime    string            `json:"runtime"`
	Run        Run               `json:"run,omitzero" doc:"What runs, the service's template and the version's overrides taken together"`
	EnvNames   []string          `json:"env_names,omitempty" doc:"Names of its environment variables; values are not shown"`
	Branch     string            `json:"branch,omitempty"`
	Owner      string            `json:"owner,omitempty"`
	Source     string            `json:"source,omitempty" doc:"Where its newest deployment came from" example:"ci"`
	Origin     Origin            `json:"origin,omitzero" doc:"The change its newest deployment was made from, and the build that made it"`
	Note       string            `json:"note,omitempty" doc:"What it is for"`
	Labels     map[string]string `json:"labels,omitempty"`
	CreatedAt  time.Time         `json:"created_at"`
	DeployedAt time.Time         `json:"deployed_at"`
	Requests   uint64            `json:"requests" doc:"Requests answered since the server started"`
	PreviewURL string            `json:"preview_url,omitempty" doc:"URL that selects this version without a header"`
	Instances  []Instance        `json:"instances,omitempty"`
}

// ID returns service@version.
func (v Version) ID() string { return v.Service + "@" + v.Name }

// Instance is one running copy of a version.
type Instance struct {
	ID         string    `json:"id"`
	Generation int64     `json:"generation"`
	Addresses  []string  `json:"addresses,omitempty" doc:"host:port"`
	Healthy    bool      `json:"healthy"`
	Health     string    `json:"health,omitempty" doc:"The last health check in words"`
	StartedAt  time.Time `json:"started_at"`
}

// LogLine is one line an instance wrote.
type LogLine struct {
	Time     time.Time `json:"time"`
	Instance string    `json:"instance"`
	Stream   string    `json:"stream,omitempty" enum:"stdout,stderr"`
	Text     string    `json:"text"`
}
