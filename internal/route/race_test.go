//go:build race

package route_test

// raceDetector says that the tests run with the race detector.
const raceDetector = true
