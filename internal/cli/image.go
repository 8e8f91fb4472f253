package cli

import (
	"cmp"
	"fmt"
	"regexp"
	"strings"

	"github.com/layover-dev/layover/api"
)

// shortDigest and shortCommit are how many characters of each a table shows.
const (
	shortDigest = 12
	shortCommit = 7
)

var hexCommit = regexp.MustCompile(`^[0-9a-f]{40}([0-9a-f]{24})?$`)

// imageOf says in a cell which image a version really runs.
func imageOf(v api.Version) string {
	var out []string
	for _, i := range v.Images() {
		digest := strings.TrimPrefix(i.Digest, "sha256:")
		commit := i.Commit
		if hexCommit.MatchString(commit) {
			commit = commit[:shortCommit]
		}
		out = append(out, oneLine(strings.TrimSpace(cmp.Or(digest[:min(shortDigest, len(digest))], i.Name)+" "+commit)))
	}
	if len(out) > 1 {
		return fmt.Sprintf("%d images: %s", len(out), strings.Join(out, ", "))
	}
	return strings.Join(out, "")
}

// behindOf says in a cell how far a version's base is from what its template has now.
func behindOf(b *api.Base) string {
	switch {
	case !b.Moved():
		return ""
	case b.Behind > 0:
		return fmt.Sprintf("%d behind", b.Behind)
	case b.Behind < 0:
		return fmt.Sprintf("%d ahead", -b.Behind)
	}
	return "another"
}

// describeImages says which images a version really runs, a line for each.
func describeImages(v api.Version) []string {
	images := v.Images()
	all := 0
	for _, i := range images {
		all += i.Copies
	}
	var out []string
	for _, i := range images {
		text := i.Name
		if i.Digest != "" && !strings.HasSuffix(i.Name, "@"+i.Digest) {
			text = strings.TrimSpace(text + " " + i.Digest)
		}
		if i.Commit != "" {
			text += ", commit " + i.Commit
		}
		if len(images) > 1 {
			text += fmt.Sprintf(", %d of %d", i.Copies, all)
		}
		out = append(out, oneLine(text))
	}
	if len(images) > 1 {
		out = append(out, fmt.Sprintf("%d images run at once: a deployment is under way, or a tag has moved", len(images)))
	}
	return out
}

// describeBase says what a version was copied from, and how far that has moved on.
func describeBase(b *api.Base) string {
	switch {
	case b == nil:
		return ""
	case b.Current == "":
		return fmt.Sprintf("copied from %s of the %s; what that has now is not known", b.Copied, b.Template)
	case !b.Moved():
		return fmt.Sprintf("copied from %s, which the %s has now as well", b.Copied, b.Template)
	}
	text := fmt.Sprintf("copied from %s; the %s now has %s", b.Copied, b.Template, b.Current)
	if b.Behind != 0 {
		text += " (" + behindOf(b) + ")"
	}
	if len(b.Changes) > 0 {
		text += ": " + oneLine(strings.Join(b.Changes, ", "))
	}
	return text
}
