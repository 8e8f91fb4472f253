package control

import "slices"

// CommitOf returns the commit that the labels of an image or a container name, "" where none does.
func CommitOf(labels map[string]string) string {
	for _, name := range commitLabels() {
		if commit := labels[name]; commit != "" {
			return bounded(commit, maxCommit)
		}
	}
	return ""
}

// commitLabels are the labels that may name a commit, the one that counts first.
func commitLabels() []string {
	return []string{"org.opencontainers.image.revision", "layover.commit", "org.label-schema.vcs-ref"}
}

// IsCommitLabel says whether [CommitOf] looks at a label.
func IsCommitLabel(name string) bool { return slices.Contains(commitLabels(), name) }

// maxCommit bounds what is taken for a commit, which anybody may have written.
const maxCommit = 64
