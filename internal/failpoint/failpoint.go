// Package failpoint marks the places at which a server may be killed with the worst effect:
// between two steps that leave a trace. A build with the tag failpoint ends there where it is
// told to, and the proof crash-matrix sees what becomes of it. In every other build a
// point is nothing.
package failpoint

// The points of a version's life, in the order in which a deployment, and then what it
// replaces, passes them.
const (
	DeployRecorded  = "deploy.recorded"  // the wish is in the store
	DeployBegun     = "deploy.begun"     // and among the events
	SetupWanted     = "setup.wanted"     // nothing of the setup is there
	SetupStarted    = "setup.started"    // it runs
	SetupEnded      = "setup.ended"      // it has ended, and nobody noted how
	SetupRecorded   = "setup.recorded"   // the store has that, and its outputs
	SetupCleared    = "setup.cleared"    // nothing is left of it
	InstanceWanted  = "instance.wanted"  // nothing of the instance is there
	ProcessFolder   = "process.folder"   // an empty folder is
	ProcessPlanned  = "process.planned"  // with a plan in it
	ProcessForked   = "process.forked"   // the supervisor runs, and has not said how it went
	DockerCreated   = "docker.created"   // the container is there
	DockerStarted   = "docker.started"   // and runs
	InstanceStarted = "instance.started" // nobody noted it yet
	InstanceHealthy = "instance.healthy"
	DeployPromoted  = "deploy.promoted"  // the store says that it serves
	DeployPublished = "deploy.published" // the table does
	DeployRouted    = "deploy.routed"    // every proxy does
	DeployTold      = "deploy.told"      // it is among the events

	EndRecorded  = "end.recorded"  // the wish to stop or remove is in the store
	EndPublished = "end.published" // the version is out of the table

	RetirePublished = "retire.published" // an instance is out of the table
	RetireDrained   = "retire.drained"   // and idle
	ProcessEnded    = "process.ended"    // its processes are gone, its folder is there
	ProcessRenamed  = "process.renamed"  // its folder is on its way out, where its log is not kept
	DockerEnded     = "docker.ended"     // its container has ended, and is there
	LogKept         = "log.kept"         // its log is in the archive, which was not cut to its bound yet
	RetireStopped   = "retire.stopped"   // nothing is left of it, and nobody noted that

	SleepRecorded  = "sleep.recorded"  // the wish to sleep is in the store
	SleepPublished = "sleep.published" // the table holds requests
	SleepTold      = "sleep.told"      // it is among the events that the version sleeps

	WakeRecorded = "wake.recorded" // the wish to wake up is in the store
	WakeBegun    = "wake.begun"    // and among the events
	WakeRouted   = "wake.routed"   // an instance is healthy, and in the table
	WakeTold     = "wake.told"     // it is among the events that the version is awake

	TeardownWanted   = "teardown.wanted"   // no instance is left, and nothing of the teardown is there
	TeardownStarted  = "teardown.started"  // it runs
	TeardownEnded    = "teardown.ended"    // it has ended, and nobody noted how
	TeardownRecorded = "teardown.recorded" // the store has that
	TeardownCleared  = "teardown.cleared"  // nothing is left of it

	StopTold      = "stop.told"      // the end of a stop is among the events
	RemoveDeleted = "remove.deleted" // the record is gone
)

// Variable is the environment variable that names the file which says at which point to end.
const Variable = "LAYOVER_FAILPOINT"
