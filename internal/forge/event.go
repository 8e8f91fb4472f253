package forge

import (
	"cmp"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/layover-dev/layover/api"
)

// maxSkew is how old a webhook may be where its time is signed, and how far clocks may differ.
const maxSkew = 5 * time.Minute

// signed says why a webhook is not genuine; "" where it is: by an HMAC of its body (GitHub, Bitbucket), of its body, ID and time
// (GitLab, with a signing token), or by the secret itself (GitLab, with a secret token).
func signed(kind string, header http.Header, body, secret []byte, now time.Time) string {
	if len(secret) == 0 {
		return refusedSignature
	}
	if kind == GitLab {
		if key, ok := strings.CutPrefix(string(secret), "whsec_"); ok {
			return signedStandard(header, body, key, now)
		}
		got := sha256.Sum256([]byte(header.Get("X-Gitlab-Token"))) // of one length, so that the time tells nothing
		want := sha256.Sum256(secret)
		if len(header.Values("X-Gitlab-Token")) != 1 || subtle.ConstantTimeCompare(got[:], want[:]) != 1 {
			return refusedSignature
		}
		return ""
	}
	name := "X-Hub-Signature-256"
	if kind == Bitbucket {
		name = "X-Hub-Signature"
	}
	values := header.Values(name)
	if len(values) != 1 {
		return refusedSignature
	}
	digits, ok := strings.CutPrefix(values[0], "sha256=")
	got, err := hex.DecodeString(digits)
	if !ok || err != nil {
		return refusedSignature
	}
	mac := hmac.New(sha256.New, secret)
	mac.Write(body)
	if !hmac.Equal(got, mac.Sum(nil)) {
		return refusedSignature
	}
	return ""
}

// signedStandard checks a webhook by Standard Webhooks (standardwebhooks.com), as GitLab signs where it has a signing token.
func signedStandard(header http.Header, body []byte, key string, now time.Time) string {
	secret, err := base64.StdEncoding.DecodeString(key)
	if err != nil || len(secret) == 0 {
		return refusedSignature
	}
	for _, name := range []string{"Webhook-Id", "Webhook-Timestamp", "Webhook-Signature"} {
		if len(header.Values(name)) != 1 {
			return refusedSignature
		}
	}
	id, at := header.Get("Webhook-Id"), header.Get("Webhook-Timestamp")
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(id + "." + at + "."))
	mac.Write(body)
	want := mac.Sum(nil)
	signatures := strings.Fields(header.Get("Webhook-Signature"))
	genuine := false
	for _, s := range signatures[:min(len(signatures), maxSignatures)] { // there are several while a token is changed
		text, ok := strings.CutPrefix(s, "v1,")
		got, err := base64.StdEncoding.DecodeString(text)
		genuine = ok && err == nil && hmac.Equal(got, want) || genuine
	}
	if !genuine {
		return refusedSignature
	}
	seconds, err := strconv.ParseInt(at, 10, 64)
	if err != nil {
		return refusedMalformed
	}
	if age := now.Sub(time.Unix(seconds, 0)); age > maxSkew || age < -maxSkew {
		return refusedOld
	}
	return ""
}

const maxSignatures = 10

// event is what a webhook says.
type event struct {
	delivery   string
	repository string // owner/name
	login      string
	gone       []gone // none where it is about something else
}

// maxDelivery bounds the ID of a delivery.
const maxDelivery = 200

var errNoJSON = errors.New("the body is not the JSON of this event")

// parse reads a webhook. Events that end nothing are none of ours, and no error.
func parse(kind string, header http.Header, body []byte) (event, error) {
	if !json.Valid(body) {
		return event{}, errNoJSON
	}
	var e event
	var err error
	switch kind {
	case GitHub:
		e, err = parseGitHub(header, body)
	case GitLab:
		e, err = parseGitLab(header, body)
	default:
		e, err = parseBitbucket(header, body)
	}
	switch {
	case err != nil:
		return e, err
	case e.delivery == "":
		return e, errors.New("the delivery has no ID")
	case len(e.delivery) > maxDelivery:
		return e, fmt.Errorf("the ID of the delivery is longer than %d bytes", maxDelivery)
	}
	for _, g := range e.gone {
		if len(g.branch) > api.MaxWho {
			return e, fmt.Errorf("the name of the branch is longer than %d bytes", api.MaxWho)
		}
	}
	return e, nil
}

// parseGitHub reads delete, push and pull_request (docs.github.com/webhooks/webhook-events-and-payloads).
func parseGitHub(header http.Header, body []byte) (event, error) {
	var in struct {
		Action      string `json:"action"`
		Ref         string `json:"ref"`
		RefType     string `json:"ref_type"`
		Before      string `json:"before"`
		Deleted     bool   `json:"deleted"`
		PullRequest struct {
			Number   int       `json:"number"`
			ClosedAt time.Time `json:"closed_at"`
			Head     struct {
				Ref  string `json:"ref"`
				SHA  string `json:"sha"`
				Repo struct {
					FullName string `json:"full_name"`
				} `json:"repo"`
			} `json:"head"`
		} `json:"pull_request"`
		Repository struct {
			FullName string          `json:"full_name"`
			PushedAt json.RawMessage `json:"pushed_at"`
		} `json:"repository"`
		Sender struct {
			Login string `json:"login"`
		} `json:"sender"`
	}
	if err := json.Unmarshal(body, &in); err != nil {
		return event{}, errNoJSON
	}
	e := event{delivery: header.Get("X-Github-Delivery"), repository: in.Repository.FullName, login: in.Sender.Login}
	switch kind := header.Get("X-Github-Event"); {
	case kind == "":
		return e, errors.New("the header X-GitHub-Event is missing")
	case kind == "delete" && in.RefType == "branch":
		if in.Ref == "" || e.repository == "" {
			return e, errors.New("the branch or the repository is missing")
		}
		e.gone = []gone{{branch: in.Ref, at: pushedAt(in.Repository.PushedAt)}}
	case kind == "push" && in.Deleted && strings.HasPrefix(in.Ref, branchRef):
		if in.Ref == branchRef || e.repository == "" {
			return e, errors.New("the branch or the repository is missing")
		}
		e.gone = []gone{{branch: strings.TrimPrefix(in.Ref, branchRef), commit: in.Before, at: pushedAt(in.Repository.PushedAt)}}
	case kind == "pull_request" && in.Action == "closed":
		p := in.PullRequest
		if p.Number <= 0 || e.repository == "" {
			return e, errors.New("the number of the pull request or the repository is missing")
		}
		g := gone{pull: strconv.Itoa(p.Number), commit: p.Head.SHA, at: p.ClosedAt}
		if p.Head.Repo.FullName == e.repository { // a branch of a fork is another one
			g.branch = p.Head.Ref
		}
		e.gone = []gone{g}
	}
	return e, nil
}

// pushedAt reads a time that is a number in some events, and text in others.
func pushedAt(text json.RawMessage) time.Time {
	var seconds int64
	if json.Unmarshal(text, &seconds) == nil && seconds > 0 {
		return time.Unix(seconds, 0)
	}
	var at time.Time
	_ = json.Unmarshal(text, &at)
	return at
}

const branchRef = "refs/heads/"

const noCommit = "0000000000000000000000000000000000000000"

// parseGitLab reads push and merge request events (docs.gitlab.com/user/project/integrations/webhook_events).
func parseGitLab(header http.Header, body []byte) (event, error) {
	var in struct {
		ObjectKind string `json:"object_kind"`
		Ref        string `json:"ref"`
		Before     string `json:"before"`
		After      string `json:"after"`
		Username   string `json:"user_username"`
		User       struct {
			Username string `json:"username"`
		} `json:"user"`
		Project struct {
			Path string `json:"path_with_namespace"`
		} `json:"project"`
		Attributes struct {
			IID             int    `json:"iid"`
			Action          string `json:"action"`
			SourceBranch    string `json:"source_branch"`
			SourceProjectID int    `json:"source_project_id"`
			TargetProjectID int    `json:"target_project_id"`
			UpdatedAt       string `json:"updated_at"`
			LastCommit      struct {
				ID string `json:"id"`
			} `json:"last_commit"`
		} `json:"object_attributes"`
	}
	if err := json.Unmarshal(body, &in); err != nil {
		return event{}, errNoJSON
	}
	e := event{repository: in.Project.Path, login: cmp.Or(in.Username, in.User.Username)}
	// The ID is signed where there is a signing token. The same one comes again where GitLab tries again.
	e.delivery = cmp.Or(header.Get("Webhook-Id"), header.Get("Idempotency-Key"), header.Get("X-Gitlab-Event-Uuid"))
	switch {
	case in.ObjectKind == "":
		return e, errors.New("object_kind is missing")
	case in.ObjectKind == "push" && strings.Trim(in.After, "0") == "" && len(in.After) >= len(noCommit):
		branch, ok := strings.CutPrefix(in.Ref, branchRef)
		if !ok || branch == "" || e.repository == "" {
			return e, errors.New("the branch or the project is missing")
		}
		e.gone = []gone{{branch: branch, commit: in.Before}}
	case in.ObjectKind == "merge_request" && (in.Attributes.Action == "merge" || in.Attributes.Action == "close"):
		a := in.Attributes
		if a.IID <= 0 || e.repository == "" {
			return e, errors.New("the number of the merge request or the project is missing")
		}
		g := gone{pull: strconv.Itoa(a.IID), commit: a.LastCommit.ID, at: gitLabTime(a.UpdatedAt)}
		if a.SourceProjectID == a.TargetProjectID {
			g.branch = a.SourceBranch
		}
		e.gone = []gone{g}
	}
	return e, nil
}

// gitLabTime reads the two ways in which GitLab writes times.
func gitLabTime(text string) time.Time {
	for _, layout := range []string{time.RFC3339, "2006-01-02 15:04:05 MST"} {
		if at, err := time.Parse(layout, text); err == nil {
			return at
		}
	}
	return time.Time{}
}

// maxChanges bounds how many branches one push of Bitbucket may end.
const maxChanges = 100

// parseBitbucket reads repo:push, pullrequest:fulfilled and pullrequest:rejected (support.atlassian.com, Event payloads).
func parseBitbucket(header http.Header, body []byte) (event, error) {
	var in struct {
		Actor struct {
			Nickname string `json:"nickname"`
		} `json:"actor"`
		Repository struct {
			FullName string `json:"full_name"`
		} `json:"repository"`
		Push struct {
			Changes []struct {
				Closed bool            `json:"closed"`
				New    json.RawMessage `json:"new"`
				Old    struct {
					Type   string `json:"type"`
					Name   string `json:"name"`
					Target struct {
						Hash string `json:"hash"`
					} `json:"target"`
				} `json:"old"`
			} `json:"changes"`
		} `json:"push"`
		PullRequest struct {
			ID        int       `json:"id"`
			UpdatedOn time.Time `json:"updated_on"`
			Source    struct {
				Branch struct {
					Name string `json:"name"`
				} `json:"branch"`
				Commit struct {
					Hash string `json:"hash"`
				} `json:"commit"`
				Repository struct {
					FullName string `json:"full_name"`
				} `json:"repository"`
			} `json:"source"`
		} `json:"pullrequest"`
	}
	if err := json.Unmarshal(body, &in); err != nil {
		return event{}, errNoJSON
	}
	e := event{delivery: header.Get("X-Request-Uuid"), repository: in.Repository.FullName, login: in.Actor.Nickname}
	switch key := header.Get("X-Event-Key"); key {
	case "":
		return e, errors.New("the header X-Event-Key is missing")
	case "repo:push":
		if len(in.Push.Changes) > maxChanges {
			return e, fmt.Errorf("it has more than %d changes", maxChanges)
		}
		for _, c := range in.Push.Changes {
			if c.Closed && string(c.New) == "null" && c.Old.Type == "branch" && c.Old.Name != "" {
				e.gone = append(e.gone, gone{branch: c.Old.Name, commit: c.Old.Target.Hash})
			}
		}
	case "pullrequest:fulfilled", "pullrequest:rejected":
		p := in.PullRequest
		if p.ID <= 0 {
			return e, errors.New("the number of the pull request is missing")
		}
		g := gone{pull: strconv.Itoa(p.ID), commit: p.Source.Commit.Hash, at: p.UpdatedOn}
		if p.Source.Repository.FullName == e.repository {
			g.branch = p.Source.Branch.Name
		}
		e.gone = []gone{g}
	}
	if len(e.gone) > 0 && e.repository == "" {
		return e, errors.New("the repository is missing")
	}
	return e, nil
}
