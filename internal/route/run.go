package route

// RunKey is the key of the baggage member that says which test run a request is part of. It is a member of its own, as common
// tracers drop properties.
const RunKey = "layover_run"

// MaxRun is how many bytes the ID of a test run may have.
const MaxRun = maxName

// RunOf returns the test run that a request is part of, by its baggage lines; "" where that names none. What cannot be a
// name ([CheckName]) is none. RunOf does not allocate.
func RunOf(lines []string) string {
	if len(lines) == 0 {
		return ""
	}
	if id, ok := Member(lines, RunKey); ok && nameProblem(id) == "" {
		return id
	}
	return ""
}
