package ecstest

import (
	"encoding/xml"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// askEC2 makes a call of the query protocol.
func askEC2(t *testing.T, c *Cloud, key string, form url.Values, answer any) int {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, c.URL()+"/", strings.NewReader(form.Encode()))
	require.NoError(t, err)
	r.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential="+key+"/20261126/eu-central-1/ec2/aws4_request, SignedHeaders=host, Signature=0")
	transport := &http.Transport{DisableKeepAlives: true}
	got, err := (&http.Client{Transport: transport}).Do(r)
	require.NoError(t, err)
	defer got.Body.Close() //nolint:errcheck // only read
	text, err := io.ReadAll(got.Body)
	require.NoError(t, err)
	require.NoError(t, xml.Unmarshal(text, answer), string(text))
	return got.StatusCode
}

func TestEC2SaysWhereThingsAre(t *testing.T) {
	t.Parallel()
	c := newTestCloud(t, nil)
	c.AddInstance("i-0a", "10.0.0.1")
	c.AddInstance("i-0b", "10.0.0.2")
	c.AddSubnet("subnet-1", "vpc-1", "10.0.0.0/24")
	c.AddSecurityGroup("sg-1", "vpc-1", Ingress{Protocol: "tcp", From: 8080, To: 8090, CIDRs: []string{"10.0.0.0/8"}}, Ingress{Protocol: "-1", Groups: []string{"sg-2"}})

	var instances struct {
		XMLName xml.Name `xml:"http://ec2.amazonaws.com/doc/2016-11-15/ DescribeInstancesResponse"`
		Request string   `xml:"requestId"`
		Found   []struct {
			ID string `xml:"instanceId"`
			IP string `xml:"privateIpAddress"`
		} `xml:"reservationSet>item>instancesSet>item"`
	}
	require.Equal(t, http.StatusOK, askEC2(t, c, rootKey, url.Values{"Action": {"DescribeInstances"}, "InstanceId.1": {"i-0b"}, "InstanceId.2": {"i-0a"}}, &instances))
	require.Len(t, instances.Found, 2)
	require.Equal(t, "10.0.0.2", instances.Found[0].IP)
	require.NotEmpty(t, instances.Request)

	var subnets struct {
		VPC  string `xml:"subnetSet>item>vpcId"`
		CIDR string `xml:"subnetSet>item>cidrBlock"`
		Free int    `xml:"subnetSet>item>availableIpAddressCount"`
	}
	askEC2(t, c, rootKey, url.Values{"Action": {"DescribeSubnets"}, "SubnetId.1": {"subnet-1"}}, &subnets)
	require.Equal(t, "10.0.0.0/24", subnets.CIDR)
	require.Equal(t, 251, subnets.Free)

	var groups struct {
		Rules []struct {
			Protocol string   `xml:"ipProtocol"`
			From     *int     `xml:"fromPort"`
			CIDRs    []string `xml:"ipRanges>item>cidrIp"`
			Groups   []string `xml:"groups>item>groupId"`
		} `xml:"securityGroupInfo>item>ipPermissions>item"`
	}
	askEC2(t, c, rootKey, url.Values{"Action": {"DescribeSecurityGroups"}, "GroupId.1": {"sg-1"}}, &groups)
	require.Len(t, groups.Rules, 2)
	require.Equal(t, 8080, *groups.Rules[0].From)
	require.Equal(t, []string{"10.0.0.0/8"}, groups.Rules[0].CIDRs)
	require.Nil(t, groups.Rules[1].From)
	require.Equal(t, []string{"sg-2"}, groups.Rules[1].Groups)

	user, _, err := c.AddUser("ann", `{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "ec2:DescribeSubnets", "Resource": "*"}]}`)
	require.NoError(t, err)
	for _, wrong := range []struct {
		key    string
		form   url.Values
		status int
		code   string
	}{
		{rootKey, url.Values{"Action": {"DescribeInstances"}, "InstanceId.1": {"i-0c"}}, 400, "InvalidInstanceID.NotFound"},
		{rootKey, url.Values{"Action": {"DescribeInstances"}, "InstanceId.1": {"x"}}, 400, "InvalidInstanceID.Malformed"},
		{rootKey, url.Values{"Action": {"DescribeSubnets"}, "SubnetId.1": {"subnet-2"}}, 400, "InvalidSubnetID.NotFound"},
		{rootKey, url.Values{"Action": {"DescribeSecurityGroups"}, "GroupId.1": {"sg-9"}}, 400, "InvalidGroup.NotFound"},
		{rootKey, url.Values{"Action": {"TerminateInstances"}}, 400, "InvalidAction"},
		{user, url.Values{"Action": {"DescribeInstances"}}, 403, "UnauthorizedOperation"},
		{"AKIANOBODY", url.Values{"Action": {"DescribeInstances"}}, 401, "AuthFailure"},
	} {
		var failed struct {
			XMLName xml.Name `xml:"Response"`
			Code    string   `xml:"Errors>Error>Code"`
			Message string   `xml:"Errors>Error>Message"`
			Request string   `xml:"RequestID"`
		}
		require.Equal(t, wrong.status, askEC2(t, c, wrong.key, wrong.form, &failed), wrong.code)
		require.Equal(t, wrong.code, failed.Code)
		require.NotEmpty(t, failed.Message)
		require.NotEmpty(t, failed.Request)
	}
}
