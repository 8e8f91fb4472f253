package config

import (
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/layover-dev/layover/api"
)

// Webhook is where events are sent to.
type Webhook struct {
	Name       string       `yaml:"name" doc:"Name of the webhook. How far it is in the events is kept under this name" example:"team-chat"`
	URL        string       `yaml:"url,omitempty" doc:"Where to POST to; or url_env, where the URL is a secret" example:"https://hooks.example.com/layover"`
	URLEnv     string       `yaml:"url_env,omitempty" doc:"Environment variable of the server that has the URL" example:"SLACK_URL"`
	Format     string       `yaml:"format,omitempty" default:"json" enum:"json,slack" doc:"json: the event. slack: a message for an incoming webhook of Slack"`
	Events     []string     `yaml:"events,omitempty" doc:"Types of events to send; a star stands for any ending. Default: all" example:"deploy.*"`
	SecretFile string       `yaml:"secret_file,omitempty" doc:"File with the secret that deliveries are signed with, relative to the folder of this one. It is read for each delivery. Default: not signed" example:"webhook.secret"`
	SecretEnv  string       `yaml:"secret_env,omitempty" doc:"Environment variable of the server that has the secret, instead of a file" example:"WEBHOOK_SECRET"`
	RetryFor   api.Duration `yaml:"retry_for,omitempty" default:"1h" doc:"How long a delivery is tried again before it becomes a dead letter"`
}

// The formats of a webhook.
const (
	WebhookJSON  = "json"
	WebhookSlack = "slack"
)

// maxWebhooks bounds how many there are: each goes through all events on its own.
const maxWebhooks = 50

// AbsoluteSecretFile returns the path of a webhook's secret, "" where it has none.
func (f *File) AbsoluteSecretFile(w Webhook) string {
	if w.SecretFile == "" {
		return ""
	}
	return f.absolute(w.SecretFile)
}

func (k checker) webhooks() {
	var names []string
	if n := len(k.file.Webhooks); n > maxWebhooks {
		k.key(path{"webhooks"}, "", "there are %d webhooks, and at most %d may be", n, maxWebhooks)
	}
	for i, w := range k.file.Webhooks {
		at := path{"webhooks", strconv.Itoa(i)}
		k.name(w.Name, k.source.value(at.with("name")), "webhook")
		if slices.Contains(names, w.Name) {
			k.value(at.with("name"), "give one of them another name", "there are two webhooks %q", clip(w.Name))
		}
		names = append(names, w.Name)
		switch {
		case w.URL == "" && w.URLEnv == "":
			k.value(at, "add url, or url_env", "the webhook has no URL")
		case w.URL != "" && w.URLEnv != "":
			k.value(at.with("url_env"), "keep one of the two", "url and url_env exclude each other")
		case w.URL != "" && !IsWebhookURL(w.URL):
			k.value(at.with("url"), "write a URL such as https://hooks.example.com/layover", "it cannot be used as the URL of a webhook")
		}
		if w.SecretFile != "" && w.SecretEnv != "" {
			k.value(at.with("secret_env"), "keep one of the two", "secret_file and secret_env exclude each other")
		}
		if w.Format == WebhookSlack && (w.SecretFile != "" || w.SecretEnv != "") {
			k.value(at, "leave the secret out: Slack's URL is the secret", "Slack checks no signature")
		}
		for j, pattern := range w.Events {
			if !slices.ContainsFunc(api.EventTypes(), func(t api.EventType) bool { return t.Matches(pattern) }) {
				k.value(at.with("events", strconv.Itoa(j)), didYouMean(pattern, eventTypes()), "no event is a %q", clip(pattern))
			}
		}
	}
}

// IsWebhookURL says whether events can be sent to text.
func IsWebhookURL(text string) bool {
	u, err := url.Parse(text)
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Hostname() != "" && u.Fragment == "" &&
		!strings.ContainsAny(text, " \t\r\n")
}

func eventTypes() []string {
	var out []string
	for _, t := range api.EventTypes() {
		out = append(out, string(t))
	}
	return out
}
