package webhook

import (
	"strings"

	"github.com/layover-dev/layover/api"
)

// slackMessage is what an incoming webhook of Slack takes.
type slackMessage struct {
	Text string `json:"text"`
}

// How much of a message Slack is sent.
const (
	slackLines = 10   // last lines of a log
	slackChars = 3000 // bytes of the whole; Slack cuts at 4,000 characters
)

// slackText tells of e in Slack's mrkdwn.
func slackText(environment string, e api.Event) string {
	mark := ""
	switch e.Type {
	case api.EventDeployDone:
		mark = ":white_check_mark: "
	case api.EventDeployFailed, api.EventInstanceExited:
		mark = ":x: "
	case api.EventVersionOverruled:
		mark = ":warning: "
	}
	text := mark + slackEscape(e.Message)
	if e.Actor != "" {
		text += ", by " + slackEscape(e.Actor)
	}
	if e.Owner != "" && !api.SameOwner(e.Owner, e.Actor) {
		text += " (owner: " + slackEscape(e.Owner) + ")"
	}
	text += " _" + slackEscape(environment) + "_"
	if len(text) > slackChars {
		text = strings.ToValidUTF8(text[:slackChars], "") + " …"
	}
	tail := e.LogTail[max(0, len(e.LogTail)-slackLines):]
	for len(tail) > 0 { // the last lines say most
		code := "\n```\n" + slackEscape(strings.ReplaceAll(strings.Join(tail, "\n"), "```", "'''")) + "\n```"
		if len(text)+len(code) <= slackChars {
			return text + code
		}
		tail = tail[1:]
	}
	return text
}

// slackEscape keeps text from being markup: mentions, links and entities.
func slackEscape(text string) string {
	return strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;").Replace(text)
}
