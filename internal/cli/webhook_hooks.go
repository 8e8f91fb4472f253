package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/layover-dev/layover/api"
	"github.com/layover-dev/layover/internal/config"
	"github.com/layover-dev/layover/internal/control"
	"github.com/layover-dev/layover/internal/webhook"
)

// maxSecret bounds the file of a secret.
const maxSecret = 4 << 10

// hooks are the webhooks that the file declares, with what environment variables say.
func hooks(file *config.File, getenv func(string) string) ([]webhook.Hook, error) {
	var out []webhook.Hook
	for _, w := range file.Webhooks {
		h := webhook.Hook{Name: w.Name, URL: w.URL, Format: w.Format, Events: w.Events, RetryFor: time.Duration(w.RetryFor)}
		if w.URLEnv != "" {
			if h.URL = getenv(w.URLEnv); !config.IsWebhookURL(h.URL) {
				return nil, webhookError(w, "the variable "+w.URLEnv+" has no URL")
			}
		}
		switch secretFile := file.AbsoluteSecretFile(w); {
		case w.SecretEnv != "":
			secret := getenv(w.SecretEnv)
			if secret == "" {
				return nil, webhookError(w, "the variable "+w.SecretEnv+" has no secret")
			}
			h.Secret = func() ([]byte, error) { return []byte(secret), nil }
		case secretFile != "":
			h.Secret = func() ([]byte, error) { return readSecret(secretFile) }
			if _, err := h.Secret(); err != nil { // better now than at the first event
				return nil, webhookError(w, err.Error())
			}
		}
		out = append(out, h)
	}
	return out, nil
}

func webhookError(w config.Webhook, problem string) error {
	return &control.Error{
		Code: api.CodeInvalid, Message: fmt.Sprintf("the webhook %s: %s", w.Name, problem), Hint: "set it, or take the webhook out of layover.yaml",
	}
}

// readSecret returns what a file has, without the white space around it.
func readSecret(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxSecret {
		return nil, fmt.Errorf("%s has more than %d bytes", path, maxSecret)
	}
	if data = bytes.TrimSpace(data); len(data) == 0 {
		return nil, errors.New(path + " is empty")
	}
	return data, nil
}
