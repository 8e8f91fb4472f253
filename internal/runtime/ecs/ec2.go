package ecs

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/smithy-go"
)

// The addresses of container instances are the one thing that only EC2 knows. Its package of the SDK has
// thirty megabytes of source for some seven hundred calls; these few lines make the two that are needed.

// reservations is the answer to DescribeInstances, as far as it is of use.
type reservations struct {
	Instances []struct {
		ID      string `xml:"instanceId"`
		Address string `xml:"privateIpAddress"`
	} `xml:"reservationSet>item>instancesSet>item"`
}

// privateAddresses returns the private addresses of EC2 instances, by their ids.
func (a *account) privateAddresses(ctx context.Context, ids []string) (map[string]string, error) {
	form := url.Values{"Action": {"DescribeInstances"}, "Version": {"2016-11-15"}}
	for i, id := range ids {
		form.Set(fmt.Sprintf("InstanceId.%d", i+1), id)
	}
	var found reservations
	if err := a.askEC2(ctx, form, &found); err != nil {
		return nil, err
	}
	out := map[string]string{}
	for _, i := range found.Instances {
		out[i.ID] = i.Address
	}
	return out, nil
}

const (
	ec2Timeout = 30 * time.Second
	maxEC2     = 16 << 20
)

// askEC2 makes a call of the EC2 query protocol.
func (a *account) askEC2(ctx context.Context, form url.Values, answer any) error {
	if err := a.budget.wait(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, ec2Timeout)
	defer cancel()
	endpoint := aws.ToString(a.config.BaseEndpoint)
	if endpoint == "" {
		endpoint = "https://ec2." + a.region + "." + domainOf(a.region)
	}
	body := form.Encode()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, endpoint+"/", strings.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")
	credentials, err := a.config.Credentials.Retrieve(ctx)
	if err != nil {
		return err
	}
	sum := sha256.Sum256([]byte(body))
	if err := v4.NewSigner().SignHTTP(ctx, credentials, request, hex.EncodeToString(sum[:]), "ec2", a.region, time.Now()); err != nil {
		return err
	}
	response, err := a.config.HTTPClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close() //nolint:errcheck // only read
	text, err := io.ReadAll(io.LimitReader(response.Body, maxEC2))
	if err != nil {
		return err
	}
	if response.StatusCode == http.StatusOK {
		return xml.Unmarshal(text, answer)
	}
	var failed struct {
		Code    string `xml:"Errors>Error>Code"`
		Message string `xml:"Errors>Error>Message"`
	}
	if err := xml.Unmarshal(text, &failed); err != nil || failed.Code == "" {
		return fmt.Errorf("EC2 answered %s", response.Status)
	}
	return &smithy.GenericAPIError{Code: failed.Code, Message: failed.Message}
}

// domainOf is the domain of the endpoints of a region.
func domainOf(region string) string {
	if strings.HasPrefix(region, "cn-") {
		return "amazonaws.com.cn"
	}
	return "amazonaws.com"
}
