package config_test

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/config"
)

func TestWebhooks(t *testing.T) {
	dir := t.TempDir()
	file, err := config.Parse(filepath.Join(dir, "layover.yaml"), []byte(`
webhooks:
  - name: audit
    url: https://audit.example.com/layover?x=1
    secret_file: audit.secret
    retry_for: 2h
  - {name: chat, url_env: SLACK_URL, format: slack, events: [deploy.failed, "version.*"]}
`))
	require.NoError(t, err)
	require.Len(t, file.Webhooks, 2)
	require.Equal(t, api.Duration(2*time.Hour), file.Webhooks[0].RetryFor)
	require.Equal(t, filepath.Join(dir, "audit.secret"), file.AbsoluteSecretFile(file.Webhooks[0]))
	require.Empty(t, file.AbsoluteSecretFile(file.Webhooks[1]))
	require.Equal(t, []string{"deploy.failed", "version.*"}, file.Webhooks[1].Events)
}

func TestWebhooksRefused(t *testing.T) {
	for text, says := range map[string]string{
		"{url: http://x}":                                         "name",
		"{name: A B, url: http://x}":                              "A B",
		"{name: a}":                                               "the webhook has no URL",
		"{name: a, url: ftp://x}":                                 "it cannot be used as the URL of a webhook",
		"{name: a, url: http://}":                                 "it cannot be used as the URL of a webhook",
		"{name: a, url: http://x, url_env: X}":                    "url and url_env exclude each other",
		"{name: a, url: http://x, format: xml}":                   "json",
		"{name: a, url: http://x, events: [deploy.dnoe]}":         "deploy.done",
		"{name: a, url: http://x, events: [nothing.*]}":           `no event is a "nothing.*"`,
		"{name: a, url: http://x, secret_file: a, secret_env: b}": "secret_file and secret_env exclude each other",
		"{name: a, url: http://x, format: slack, secret_env: b}":  "Slack checks no signature",
		"{name: a, url: http://x}, {name: a, url: http://y}":      `there are two webhooks "a"`,
		strings.Repeat("{name: a, url: http://x}, ", 51):          "there are 51 webhooks",
	} {
		_, err := config.Parse("layover.yaml", []byte("webhooks: ["+text+"]\n"))
		require.ErrorContains(t, err, says, text)
	}
}
