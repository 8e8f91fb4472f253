package api

import "time"

// TestRun is one run of a suite of tests against a route.
type TestRun struct {
	ID         string         `json:"id" doc:"Also the value of the baggage member layover_run of its requests" example:"ci-8812"`
	Number     int64          `json:"number" doc:"Counts the runs of the environment"`
	Suite      string         `json:"suite" example:"checkout-flow"`
	Ref        string         `json:"ref,omitempty" doc:"Version of a shared suite; none where the suite was run as it lay there" example:"v3"`
	Route      string         `json:"route,omitempty" doc:"What it was aimed at; none stands for the default versions" example:"feature-2981"`
	Versions   []string       `json:"versions,omitempty" maxItems:"100" doc:"The versions of that route that were there, as service@version"`
	Repeats    string         `json:"repeats,omitempty" maxLength:"63" doc:"ID of the run that was run again as this one, as it was not proved what that reached"`
	Status     RunStatus      `json:"status" enum:"running,passed,failed,unproved,error,canceled,lost"`
	Reason     string         `json:"reason,omitempty" doc:"Why it did not pass, in a sentence"`
	Passed     int            `json:"passed"`
	Failed     int            `json:"failed"`
	Skipped    int            `json:"skipped"`
	Excused    int            `json:"excused,omitempty" doc:"Failed tests that do not fail the run: quarantined, flaky, or those of a broken main"`
	ExcusedFor map[string]int `json:"excused_for,omitempty" doc:"How many of those for which reason: a verdict, or in quarantine"`
	Summary    string         `json:"summary,omitempty" doc:"How it ended, in words, with what is excused" example:"passed, 2 failures excused (1 flaky, 1 main is broken)"`
	Exercised  bool           `json:"exercised" doc:"Every version that it was to test was reached"`
	ExtraRuns  int            `json:"extra_runs,omitempty" doc:"How often failed tests were run again to find out whose fault it is"`
	Actor      string         `json:"actor,omitempty" doc:"Who ran it"`
	Origin     Origin         `json:"origin,omitzero" doc:"The change and the build that ran it"`
	Began      time.Time      `json:"began"`
	Ended      time.Time      `json:"ended,omitzero"`
	Until      time.Time      `json:"until,omitzero" doc:"When it is given up, where nothing is heard of it"`
	Touches    []string       `json:"touches,omitempty" maxItems:"1000" doc:"The services that its requests reached"`
	Cases      []TestCase     `json:"cases,omitempty" maxItems:"10000" doc:"Its tests; not in lists"`
	Omitted    TestCounts     `json:"omitted,omitzero" doc:"Tests that were too many to be stored. They count nonetheless"`
	Findings   []RunFinding   `json:"findings,omitempty" maxItems:"100" doc:"What the receipts of its requests say against it; not in lists"`
	Unreached  []Endpoint     `json:"unreached,omitempty" maxItems:"500" doc:"What others ask of the service lately, and the run did not; not in lists"`
	Reached    *Reached       `json:"reached,omitempty" doc:"What its requests reached; not in lists"`
	Owners     []string       `json:"owners,omitempty" maxItems:"20" doc:"Who is told where main is broken"`
	Repository string         `json:"repository,omitempty" maxLength:"500" doc:"Where the suite is from"`
}

// RunStatus says how a test run ended.
type RunStatus string

// How a test run ends.
const (
	RunRunning  RunStatus = "running"
	RunPassed   RunStatus = "passed"
	RunFailed   RunStatus = "failed"
	RunUnproved RunStatus = "unproved" // no test fails it, and receipts do not tell of all that it reached
	RunError    RunStatus = "error"    // it could not be run
	RunCanceled RunStatus = "canceled" // somebody ended it
	RunLost     RunStatus = "lost"     // nothing was heard of it
)

// TestCounts says of how many tests went how.
type TestCounts struct {
	Passed  int `json:"passed,omitempty" minimum:"0"`
	Failed  int `json:"failed,omitempty" minimum:"0"`
	Skipped int `json:"skipped,omitempty" minimum:"0"`
	Excused int `json:"excused,omitempty" minimum:"0" doc:"Of the failed"`
}

// Add counts a test.
func (n *TestCounts) Add(c TestCase) {
	switch c.Outcome {
	case "passed":
		n.Passed++
	case "failed":
		n.Failed++
		if c.Excused {
			n.Excused++
		}
	default:
		n.Skipped++
	}
}

// Count fills in how many of its tests passed, failed, were skipped and excused.
func (r *TestRun) Count() {
	n := r.Omitted
	for _, c := range r.Cases {
		n.Add(c)
	}
	r.Passed, r.Failed, r.Skipped, r.Excused = n.Passed, n.Failed, n.Skipped, n.Excused
}

// TestCase is one test of a run.
type TestCase struct {
	Name       string    `json:"name" minLength:"1" maxLength:"500" example:"cart > adds twice"`
	Outcome    string    `json:"outcome" enum:"passed,failed,skipped"`
	Took       Duration  `json:"took,omitzero"`
	Message    string    `json:"message,omitempty" maxLength:"4096" doc:"Why it failed"`
	Verdict    string    `json:"verdict,omitempty" maxLength:"40" doc:"Whose fault it is" example:"main is broken"`
	Blame      []string  `json:"blame,omitempty" maxItems:"20" doc:"The versions whose fault it is"`
	Evidence   []string  `json:"evidence,omitempty" maxItems:"20" doc:"What was tried to find out, and how it went"`
	Quarantine time.Time `json:"quarantine,omitzero" doc:"Until then its failure does not fail the run"`
	OnDefaults string    `json:"on_defaults,omitempty" enum:"passed,failed" doc:"How it went against the default versions, where that was tried"`
	Flipped    bool      `json:"flipped,omitempty" doc:"It failed and passed on the same versions"`
	Excused    bool      `json:"excused,omitempty" doc:"It failed, and does not fail the run"`
}

// RunFinding is what the receipts of a run say against it.
type RunFinding struct {
	Kind    string       `json:"kind" maxLength:"40" example:"not exercised"`
	Version string       `json:"version,omitempty" maxLength:"130" doc:"service@version that it is about"`
	Text    string       `json:"text" maxLength:"1000"`
	Hint    string       `json:"hint,omitempty" maxLength:"1000"`
	Edge    *ReachedEdge `json:"edge,omitempty" doc:"The calls that show it"`
}

// TestRunFilter selects runs; what is empty selects all.
type TestRunFilter struct {
	Suite   string
	Route   string
	Version string // service@version, or service
	Status  RunStatus
	Before  int64 // only those with a lower number; 0 for all
	Limit   int   // the newest; 0 means 50
}

// TestHistory is what is known of one test over all runs of its suite.
type TestHistory struct {
	Suite  string        `json:"suite"`
	Test   string        `json:"test"`
	Runs   int           `json:"runs" doc:"Runs that are known: of the last ones"`
	Failed int           `json:"failed" doc:"In how many of them it failed"`
	Flips  int           `json:"flips" doc:"In how many of them it failed and passed on the same versions"`
	Broken *Broken       `json:"broken,omitempty" doc:"It fails on the default versions"`
	Last   []TestOutcome `json:"last,omitempty" doc:"The last runs, oldest first"`
}

// Broken says that a test fails on the default versions.
type Broken struct {
	Since time.Time `json:"since"`
	Run   string    `json:"run" doc:"The run that found it"`
	Blame []string  `json:"blame,omitempty"`
}

// TestOutcome is how a test went in one run.
type TestOutcome struct {
	Run     string    `json:"run"`
	Route   string    `json:"route,omitempty"`
	At      time.Time `json:"at"`
	Outcome string    `json:"outcome"`
	Verdict string    `json:"verdict,omitempty"`
	Flipped bool      `json:"flipped,omitempty"`
	// OnDefaults is how it went against the default versions, where that was tried beside a route.
	OnDefaults string `json:"on_defaults,omitempty" enum:"passed,failed" doc:"How it went against the default versions, where that was tried"`
}

// Suite is a suite of tests that any repository can run.
type Suite struct {
	Name       string          `json:"name" example:"checkout-flow"`
	Ref        string          `json:"ref" doc:"Its version: a Git ref" example:"v3"`
	Repository string          `json:"repository" minLength:"1" maxLength:"500" doc:"Where Git finds it" example:"https://git.example.com/shared-tests.git"`
	Commit     string          `json:"commit" pattern:"^[0-9a-f]{40}([0-9a-f]{24})?$" doc:"The commit that the ref named when it was published"`
	File       string          `json:"file" minLength:"1" maxLength:"500" doc:"Its layover.test.yaml, in the repository" example:"e2e/layover.test.yaml"`
	Services   []string        `json:"services,omitempty" maxItems:"100" doc:"The services that it says it tests"`
	Owners     []string        `json:"owners,omitempty" maxItems:"20"`
	Note       string          `json:"note,omitempty" maxLength:"500"`
	Published  time.Time       `json:"published"`
	By         string          `json:"by,omitempty" doc:"Who published it"`
	Touches    []TouchedByTest `json:"touches,omitempty" doc:"The services that its runs reached, as receipts say"`
}

// TouchedByTest is a service that runs of a suite reached.
type TouchedByTest struct {
	Service string    `json:"service"`
	Last    time.Time `json:"last"`
	Runs    int       `json:"runs"`
}
