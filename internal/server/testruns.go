package server

import (
	"context"
	"net/http"

	"github.com/layover-dev/layover/api"
)

// TestRuns keeps what test runs proved. Its errors that may be shown are [*control.Error]. Implementations are safe for
// concurrent use.
type TestRuns interface {
	Begin(ctx context.Context, r api.TestRun, most api.Duration) (api.TestRun, error)
	End(ctx context.Context, result api.TestRun) (api.TestRun, error)
	Run(ctx context.Context, id string) (api.TestRun, error)
	Runs(ctx context.Context, f api.TestRunFilter) ([]api.TestRun, error)
	History(ctx context.Context, suite string) ([]api.TestHistory, error)

	Publish(ctx context.Context, s api.Suite, replace bool) (api.Suite, error)
	Unpublish(ctx context.Context, name, ref string) error
	Suites(ctx context.Context, service string) ([]api.Suite, error)
	Touches(ctx context.Context) (map[string][]api.TouchedByTest, error)
	Rename(ctx context.Context, from, to string) error
}

// RunPath names a test run.
type RunPath struct {
	ID string `path:"run" maxLength:"63" doc:"ID of the run" example:"ci-8812"`
}

// TestRunStart is what is told of a run that begins.
type TestRunStart struct {
	ID         string       `json:"id,omitempty" maxLength:"63" doc:"One is made where none is given" example:"ci-8812"`
	Suite      string       `json:"suite" maxLength:"63" example:"checkout-flow"`
	Ref        string       `json:"ref,omitempty" maxLength:"200" example:"v3"`
	Route      string       `json:"route,omitempty" maxLength:"1000" example:"feature-2981"`
	Versions   []string     `json:"versions,omitempty" maxItems:"100"`
	Owners     []string     `json:"owners,omitempty" maxItems:"20"`
	Repository string       `json:"repository,omitempty" maxLength:"500"`
	Origin     api.Origin   `json:"origin,omitzero"`
	Repeats    string       `json:"repeats,omitempty" maxLength:"63" doc:"ID of the run that is run again as this one"`
	For        api.Duration `json:"for,omitzero" doc:"How long it may take until it counts as lost: 2h where nothing is said, 24h at most"`
}

// TestRunResult is how a run ended.
type TestRunResult struct {
	Status    api.RunStatus    `json:"status" enum:"passed,failed,unproved,error,canceled"`
	Reason    string           `json:"reason,omitempty" maxLength:"2000"`
	Versions  []string         `json:"versions,omitempty" maxItems:"100" doc:"As they are now; left out where that has not changed"`
	Exercised bool             `json:"exercised"`
	ExtraRuns int              `json:"extra_runs,omitempty" minimum:"0"`
	Cases     []api.TestCase   `json:"cases,omitempty" maxItems:"10000"`
	Omitted   api.TestCounts   `json:"omitted,omitzero" doc:"Tests that are not among the cases, as those would be too many"`
	Findings  []api.RunFinding `json:"findings,omitempty" maxItems:"100"`
	Unreached []api.Endpoint   `json:"unreached,omitempty" maxItems:"500"`
}

func (s *Server) registerTestRuns() {
	register(s, operation{
		id: "begin-run", tag: tagTests, method: http.MethodPost, path: "/api/v1/runs", status: http.StatusCreated, body: true,
		summary: "Begin a test run",
		description: "Stores that a suite of tests runs. Its ID goes into the baggage of its requests, as `layover_run`. End it with its result. " +
			"Requests that came under this ID before do not count for it.",
		errors: []int{http.StatusConflict, http.StatusServiceUnavailable},
	}, func(ctx context.Context, in *struct {
		ActorHeader
		Body TestRunStart
	},
	) (*answer[api.TestRun], error) {
		b := in.Body
		r := api.TestRun{
			ID: b.ID, Suite: b.Suite, Ref: b.Ref, Route: b.Route, Versions: b.Versions, Owners: b.Owners, Repository: b.Repository, Origin: b.Origin, Repeats: b.Repeats, Actor: in.actor(),
		}
		out, err := s.tests.Begin(ctx, r, b.For)
		return reply(out), err
	})

	register(s, operation{
		id: "end-run", tag: tagTests, method: http.MethodPut, path: "/api/v1/runs/{run}/result",
		summary:     "End a test run",
		description: "Stores the result of a run, once. What its requests reached is stored with it.",
		errors:      []int{http.StatusNotFound, http.StatusConflict, http.StatusServiceUnavailable},
	}, func(ctx context.Context, in *struct {
		RunPath
		Body TestRunResult
	},
	) (*answer[api.TestRun], error) {
		b := in.Body
		out, err := s.tests.End(ctx, api.TestRun{
			ID: in.ID, Status: b.Status, Reason: b.Reason, Versions: b.Versions, Exercised: b.Exercised, ExtraRuns: b.ExtraRuns,
			Cases: b.Cases, Omitted: b.Omitted, Findings: b.Findings, Unreached: b.Unreached,
		})
		return reply(out), err
	})

	register(s, operation{
		id: "list-runs", tag: tagTests, method: http.MethodGet, path: "/api/v1/runs",
		summary:     "List test runs",
		description: "Returns the newest runs, the newest first, without their tests. The newest 5,000 are kept.",
	}, func(ctx context.Context, in *struct {
		Suite   string `query:"suite" maxLength:"63" doc:"Only of this suite"`
		Route   string `query:"route" maxLength:"1000" doc:"Only those aimed at this route"`
		Version string `query:"version" maxLength:"130" doc:"Only those whose route had this service@version, or a version of this service" example:"cart@feature-2981"`
		Status  string `query:"status" enum:"running,passed,failed,unproved,error,canceled,lost" doc:"Only those that ended so"`
		Before  int64  `query:"before" minimum:"0" doc:"Only those with a lower number"`
		Limit   int    `query:"limit" minimum:"0" maximum:"1000" doc:"How many at most; 0 means 50"`
	},
	) (*answer[api.List[api.TestRun]], error) {
		runs, err := s.tests.Runs(ctx, api.TestRunFilter{
			Suite: in.Suite, Route: in.Route, Version: in.Version, Status: api.RunStatus(in.Status), Before: in.Before, Limit: in.Limit,
		})
		return listOf(runs), err
	})

	register(s, operation{
		id: "get-run", tag: tagTests, method: http.MethodGet, path: "/api/v1/runs/{run}",
		summary:     "Read a test run",
		description: "Returns a run with its tests, and what its requests reached.",
		errors:      []int{http.StatusNotFound},
	}, func(ctx context.Context, in *RunPath) (*answer[api.TestRun], error) {
		out, err := s.tests.Run(ctx, in.ID)
		return reply(out), err
	})

	register(s, operation{
		id: "list-tests", tag: tagTests, method: http.MethodGet, path: "/api/v1/tests",
		summary:     "List the tests of a suite",
		description: "Returns how each test of a suite went in its last 100 runs, over all versions: how often it failed, how often it failed and passed on the same versions, and since when main fails it.",
	}, func(ctx context.Context, in *struct {
		Suite string `query:"suite" required:"true" minLength:"1" maxLength:"63" doc:"Name of the suite"`
	},
	) (*answer[api.List[api.TestHistory]], error) {
		all, err := s.tests.History(ctx, in.Suite)
		return listOf(all), err
	})
}

// SuiteChange is what a suite is published with.
type SuiteChange struct {
	Repository string   `json:"repository" minLength:"1" maxLength:"500" doc:"Where Git finds it, without a password" example:"https://git.example.com/shared-tests.git"`
	Commit     string   `json:"commit" pattern:"^[0-9a-f]{40}([0-9a-f]{24})?$" doc:"What the ref names"`
	File       string   `json:"file" minLength:"1" maxLength:"500" doc:"Its layover.test.yaml, in the repository"`
	Services   []string `json:"services,omitempty" maxItems:"100" doc:"The services that it tests"`
	Owners     []string `json:"owners,omitempty" maxItems:"20"`
	Note       string   `json:"note,omitempty" maxLength:"500"`
	Replace    bool     `json:"replace,omitempty" doc:"Also where the ref names another commit now"`
}

// SuitePath names a suite.
type SuitePath struct {
	Name string `path:"suite" maxLength:"63" doc:"Name of the suite" example:"checkout-flow"`
}

func (s *Server) registerSuites() {
	register(s, operation{
		id: "list-suites", tag: tagTests, method: http.MethodGet, path: "/api/v1/suites",
		summary:     "List shared suites",
		description: "Returns the suites that any repository can run, each version of them, with the services that their runs reached.",
	}, func(ctx context.Context, in *struct {
		Service string `query:"service" maxLength:"63" doc:"Only those whose runs reached this service, or that say they test it" example:"cart"`
	},
	) (*answer[api.List[api.Suite]], error) {
		all, err := s.tests.Suites(ctx, in.Service)
		return listOf(all), err
	})

	register(s, operation{
		id: "publish-suite", tag: tagTests, method: http.MethodPut, path: "/api/v1/suites/{suite}",
		summary:     "Publish a suite",
		description: "Makes a version of a suite known, so that any repository can run it. Where Git finds it is stored, not its files.",
		errors:      []int{http.StatusConflict, http.StatusServiceUnavailable},
	}, func(ctx context.Context, in *struct {
		ActorHeader
		SuitePath
		Ref  string `query:"ref" required:"true" minLength:"1" maxLength:"200" doc:"Its version: a tag or branch of Git" example:"v3"`
		Body SuiteChange
	},
	) (*answer[api.Suite], error) {
		b := in.Body
		out, err := s.tests.Publish(ctx, api.Suite{
			Name: in.Name, Ref: in.Ref, Repository: b.Repository, Commit: b.Commit, File: b.File, Services: b.Services, Owners: b.Owners, Note: b.Note, By: in.actor(),
		}, b.Replace)
		return reply(out), err
	})

	register(s, operation{
		id: "unpublish-suite", tag: tagTests, method: http.MethodDelete, path: "/api/v1/suites/{suite}",
		summary:     "Unpublish a suite",
		description: "Forgets a version of a suite. Its runs, and what they taught, stay.",
		errors:      []int{http.StatusNotFound, http.StatusServiceUnavailable},
	}, func(ctx context.Context, in *struct {
		ActorHeader
		SuitePath
		Ref string `query:"ref" required:"true" minLength:"1" maxLength:"200" doc:"Its version" example:"v3"`
	},
	) (*struct{}, error) {
		return nil, s.tests.Unpublish(ctx, in.Name, in.Ref)
	})

	register(s, operation{
		id: "rename-suite", tag: tagTests, method: http.MethodPost, path: "/api/v1/suites/{suite}/rename", body: true,
		summary:     "Rename what is known of a suite",
		description: "Gives the history of a suite's tests, and what it touches, another name: the suite moved.",
		errors:      []int{http.StatusConflict, http.StatusServiceUnavailable},
	}, func(ctx context.Context, in *struct {
		ActorHeader
		SuitePath
		Body struct {
			To string `json:"to" maxLength:"63" example:"checkout-flow"`
		}
	},
	) (*struct{}, error) {
		return nil, s.tests.Rename(ctx, in.Name, in.Body.To)
	})

	register(s, operation{
		id: "list-touches", tag: tagTests, method: http.MethodGet, path: "/api/v1/touches",
		summary:     "List what suites touch",
		description: "Returns which services the runs of each suite reached, as receipts say: of published suites and of others.",
	}, func(ctx context.Context, _ *struct{}) (*answer[map[string][]api.TouchedByTest], error) {
		all, err := s.tests.Touches(ctx)
		return reply(all), err
	})
}

// noTestRuns is a server that keeps none.
type noTestRuns struct{}

func noTests() error {
	return notFoundf("ask the server that leads", "this server keeps no test runs")
}

func (noTestRuns) Begin(context.Context, api.TestRun, api.Duration) (api.TestRun, error) {
	return api.TestRun{}, noTests()
}

func (noTestRuns) End(context.Context, api.TestRun) (api.TestRun, error) {
	return api.TestRun{}, noTests()
}

func (noTestRuns) Run(context.Context, string) (api.TestRun, error) { return api.TestRun{}, noTests() }

func (noTestRuns) Runs(context.Context, api.TestRunFilter) ([]api.TestRun, error) { return nil, nil }

func (noTestRuns) History(context.Context, string) ([]api.TestHistory, error) { return nil, nil }

func (noTestRuns) Publish(context.Context, api.Suite, bool) (api.Suite, error) {
	return api.Suite{}, noTests()
}
func (noTestRuns) Unpublish(context.Context, string, string) error     { return noTests() }
func (noTestRuns) Suites(context.Context, string) ([]api.Suite, error) { return nil, nil }
func (noTestRuns) Rename(context.Context, string, string) error        { return noTests() }
func (noTestRuns) Touches(context.Context) (map[string][]api.TouchedByTest, error) {
	return map[string][]api.TouchedByTest{}, nil
}
