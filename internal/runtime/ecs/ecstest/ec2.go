package ecstest

import (
	"encoding/xml"
	"fmt"
	"sync"
)

// ec2Service is what of the API of EC2 is in use.
type ec2Service struct {
	cloud *Cloud

	mu        sync.Mutex
	addresses map[string]string // private ones, by instance
}

func newEC2(c *Cloud) *ec2Service { return &ec2Service{cloud: c, addresses: map[string]string{}} }

// AddInstance makes an EC2 instance with a private address.
func (c *Cloud) AddInstance(id, address string) { c.ec2.setAddress(id, address, true) }

// setAddress gives an instance the address at which its containers are reached.
func (e *ec2Service) setAddress(id, address string, always bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if always || e.addresses[id] == "" {
		e.addresses[id] = address
	}
}

type describedInstances struct {
	XMLName      xml.Name `xml:"http://ec2.amazonaws.com/doc/2016-11-15/ DescribeInstancesResponse"`
	Request      string   `xml:"requestId"`
	Reservations []struct {
		Instances []describedInstance `xml:"instancesSet>item"`
	} `xml:"reservationSet>item"`
}

type describedInstance struct {
	ID      string `xml:"instanceId"`
	Address string `xml:"privateIpAddress"`
}

func (e *ec2Service) call(call *request) (any, *apiError) {
	if call.action != "DescribeInstances" {
		return nil, apiErrorf("InvalidAction", "this fake has no ec2:%s", call.action)
	}
	if err := e.cloud.iam.authorize(call, "ec2:DescribeInstances", "*", nil); err != nil {
		return nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	out := describedInstances{Request: newID()}
	var found []describedInstance
	for i := 1; call.form.Has(fmt.Sprintf("InstanceId.%d", i)); i++ {
		id := call.form.Get(fmt.Sprintf("InstanceId.%d", i))
		address, ok := e.addresses[id]
		if !ok {
			return nil, apiErrorf("InvalidInstanceID.NotFound", "The instance ID '%s' does not exist", id)
		}
		found = append(found, describedInstance{ID: id, Address: address})
	}
	out.Reservations = append(out.Reservations, struct {
		Instances []describedInstance `xml:"instancesSet>item"`
	}{Instances: found})
	return out, nil
}
