package api_test

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/layover-dev/layover/api"
)

func TestWebhookSignature(t *testing.T) {
	at, body, secret := time.Unix(1_700_000_000, 0), []byte(`{"a":1}`), []byte("s3cret")
	header := api.SignWebhook(at, body, secret)
	// printf '%s' '1700000000.{"a":1}' | openssl dgst -sha256 -hmac s3cret
	require.Equal(t, "t=1700000000,v1=1698a50bc74d1ff1db85c4e0a5297c2ad9fdba245d5737cdb789e4cc6e098940", header)
	verify := func(now time.Time, header string) error {
		return api.VerifyWebhook(now, 5*time.Minute, header, body, secret)
	}
	require.NoError(t, verify(at.Add(4*time.Minute), header))
	require.NoError(t, verify(at.Add(-4*time.Minute), header), "clocks differ")
	require.ErrorContains(t, verify(at.Add(6*time.Minute), header), "was sent 6m0s ago")
	require.ErrorContains(t, verify(at, strings.Replace(header, "t=1700000000", "t=1700000001", 1)), "not of this body and secret")
	for _, bad := range []string{"", "t=1700000000", "v1=00", "t=x,v1=00", "t=1700000000,v1=zz", fmt.Sprint(header, "00")} {
		require.Error(t, verify(at, bad), bad)
	}
}

// The types of events are those that the API describes.
func TestEventTypes(t *testing.T) {
	field, ok := reflect.TypeFor[api.Event]().FieldByName("Type")
	require.True(t, ok)
	var all []string
	for _, kind := range api.EventTypes() {
		all = append(all, string(kind))
	}
	require.ElementsMatch(t, strings.Split(field.Tag.Get("enum"), ","), all)
	require.True(t, api.EventDeployDone.Matches("deploy.*"))
	require.True(t, api.EventDeployDone.Matches("*"))
	require.True(t, api.EventDeployDone.Matches("deploy.done"))
	require.False(t, api.EventDeployDone.Matches("deploy."))
	require.False(t, api.EventDeployDone.Matches("version.*"))
}
