package api

import (
	"fmt"
	"net/url"
	"strings"
	"unicode"
)

// Origin is the change a deployment was made from, and the build that made it.
type Origin struct {
	Provider    string `json:"provider,omitempty" doc:"The CI system" example:"github-actions"`
	Commit      string `json:"commit,omitempty" doc:"The commit that was built" example:"9fceb02"`
	Branch      string `json:"branch,omitempty" doc:"The branch of the build. It does not name the version" example:"feature/2981"`
	PullRequest string `json:"pull_request,omitempty" doc:"Number of the pull or merge request" example:"2981"`
	Author      string `json:"author,omitempty" doc:"Whose change it is" example:"ana"`
	URL         string `json:"url,omitempty" doc:"Page of the build, or of the change" example:"https://github.com/shop/cart/actions/runs/7"`
}

// Bounds of what is said about a deployment.
const (
	MaxWho        = 255  // bytes of owner, source, branch, and each text of an origin
	MaxURL        = 1024 // bytes of an origin's URL
	MaxNote       = 500  // bytes of a note
	MaxLabels     = 16   // labels of a version
	MaxLabelName  = 63   // bytes
	MaxLabelValue = 128  // bytes
)

// SameOwner says whether two names mean the same person: letters may differ in case, and
// nothing counts that [CleanActor] leaves out.
func SameOwner(a, b string) bool {
	return strings.EqualFold(CleanActor(a), CleanActor(b))
}

// CheckWho returns what is wrong with what d says about whose it is and why, or nil.
func (d Deployment) CheckWho() error {
	for _, f := range []struct {
		name, text string
		limit      int
	}{
		{"owner", d.Owner, MaxWho},
		{"source", d.Source, MaxWho},
		{"branch", d.Branch, MaxWho},
		{"note", d.Note, MaxNote},
		{"origin.provider", d.Origin.Provider, MaxWho},
		{"origin.commit", d.Origin.Commit, MaxWho},
		{"origin.branch", d.Origin.Branch, MaxWho},
		{"origin.pull_request", d.Origin.PullRequest, MaxWho},
		{"origin.author", d.Origin.Author, MaxWho},
		{"origin.url", d.Origin.URL, MaxURL},
	} {
		if len(f.text) > f.limit || strings.ContainsFunc(f.text, unicode.IsControl) {
			return fmt.Errorf("%s may have %d bytes, and no control characters", f.name, f.limit)
		}
	}
	if u := d.Origin.URL; u != "" && !IsWebPage(u) {
		return fmt.Errorf("origin.url is not a URL that begins with http:// or https://")
	}
	if len(d.Labels) > MaxLabels {
		return fmt.Errorf("there are %d labels, and a version may have %d", len(d.Labels), MaxLabels)
	}
	for name, value := range d.Labels {
		if err := CheckLabel(name, value); err != nil {
			return err
		}
	}
	return nil
}

// CheckLabel returns what is wrong with a label, or nil. Names are letters, digits and
// ._-/ with a letter or digit at both ends.
func CheckLabel(name, value string) error {
	inner := func(r rune) bool { return !isAlphanumeric(r) && !strings.ContainsRune("._-/", r) }
	outer := func(r rune) bool { return !isAlphanumeric(r) }
	switch {
	case name == "" || len(name) > MaxLabelName || strings.ContainsFunc(name, inner) ||
		strings.IndexFunc(name, outer) == 0 || outer(rune(name[len(name)-1])):
		return fmt.Errorf("%q cannot name a label: use at most %d letters, digits, '.', '_', '-' and '/', with a letter or digit at both ends",
			shortened(name), MaxLabelName)
	case len(value) > MaxLabelValue || strings.ContainsFunc(value, unicode.IsControl):
		return fmt.Errorf("the value of the label %s may have %d bytes, and no control characters", name, MaxLabelValue)
	}
	return nil
}

// IsWebPage says whether text is a URL that a person may follow.
func IsWebPage(text string) bool {
	u, err := url.Parse(text)
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != ""
}

func isAlphanumeric(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
}

func shortened(text string) string {
	if len(text) <= MaxLabelName {
		return text
	}
	return strings.ToValidUTF8(text[:MaxLabelName], "") + "…"
}
