package ecstest

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"sync"
)

// ec2Service is the little of Amazon EC2 that says where things are: instances, subnets and security groups,
// each by its id.
type ec2Service struct {
	cloud *Cloud

	mu        sync.Mutex
	instances map[string]ec2Instance
	subnets   map[string]ec2Subnet
	groups    map[string]ec2Group
}

func newEC2(c *Cloud) *ec2Service {
	return &ec2Service{cloud: c, instances: map[string]ec2Instance{}, subnets: map[string]ec2Subnet{}, groups: map[string]ec2Group{}}
}

// Ingress is a rule of a security group: who may connect to which ports.
type Ingress struct {
	Protocol string   // "tcp"; "-1" is all, also all ports
	From, To int      // ports
	CIDRs    []string // from these networks,
	Groups   []string // and from what is in these security groups
}

// AddInstance makes an EC2 instance with a private address.
func (c *Cloud) AddInstance(id, privateIP string) { c.ec2.setAddress(id, privateIP, true) }

// setAddress gives an instance its private address; where always is false, only if it has none yet.
func (s *ec2Service) setAddress(id, privateIP string, always bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if always || s.instances[id].IP == "" {
		s.instances[id] = ec2Instance{ID: id, IP: privateIP, State: ec2State{Code: 16, Name: "running"}}
	}
}

// AddSubnet makes a subnet of a VPC.
func (c *Cloud) AddSubnet(id, vpc, cidr string) {
	c.ec2.mu.Lock()
	defer c.ec2.mu.Unlock()
	c.ec2.subnets[id] = ec2Subnet{
		ID: id, VPC: vpc, CIDR: cidr, State: "available", Zone: c.region + "a", Free: freeIn(cidr), Owner: c.account,
		ARN: "arn:aws:ec2:" + c.region + ":" + c.account + ":subnet/" + id,
	}
}

// freeIn counts the addresses of a network, less the five that AWS keeps.
func freeIn(cidr string) int {
	const kept, most = 5, 16
	p, err := netip.ParsePrefix(cidr)
	if err != nil {
		return 0
	}
	return 1<<min(most, p.Addr().BitLen()-p.Bits()) - kept
}

// AddSecurityGroup makes a security group of a VPC, which lets in what is given and nothing else.
func (c *Cloud) AddSecurityGroup(id, vpc string, ingress ...Ingress) {
	g := ec2Group{ID: id, Name: id, VPC: vpc, Owner: c.account, Description: id}
	for _, in := range ingress {
		rule := ec2Rule{Protocol: in.Protocol}
		if in.Protocol != "-1" {
			rule.From, rule.To = &in.From, &in.To
		}
		for _, cidr := range in.CIDRs {
			rule.Ranges = append(rule.Ranges, ec2Range{cidr})
		}
		for _, group := range in.Groups {
			rule.Groups = append(rule.Groups, ec2Pair{ID: group, Owner: c.account})
		}
		g.Ingress = append(g.Ingress, rule)
	}
	c.ec2.mu.Lock()
	defer c.ec2.mu.Unlock()
	c.ec2.groups[id] = g
}

// The shapes below have the names of https://docs.aws.amazon.com/AWSEC2/latest/APIReference/.

type ec2State struct {
	Code int    `xml:"code"`
	Name string `xml:"name"`
}

type ec2Instance struct {
	ID    string   `xml:"instanceId"`
	State ec2State `xml:"instanceState"`
	IP    string   `xml:"privateIpAddress"`
}

type ec2Reservation struct {
	ID        string        `xml:"reservationId"`
	Owner     string        `xml:"ownerId"`
	Instances []ec2Instance `xml:"instancesSet>item"`
}

type ec2Subnet struct {
	ID    string `xml:"subnetId"`
	ARN   string `xml:"subnetArn"`
	State string `xml:"state"`
	Owner string `xml:"ownerId"`
	VPC   string `xml:"vpcId"`
	CIDR  string `xml:"cidrBlock"`
	Free  int    `xml:"availableIpAddressCount"`
	Zone  string `xml:"availabilityZone"`
}

type ec2Range struct {
	CIDR string `xml:"cidrIp"`
}

type ec2Pair struct {
	Owner string `xml:"userId"`
	ID    string `xml:"groupId"`
}

type ec2Rule struct {
	Protocol string     `xml:"ipProtocol"`
	From     *int       `xml:"fromPort"`
	To       *int       `xml:"toPort"`
	Groups   []ec2Pair  `xml:"groups>item"`
	Ranges   []ec2Range `xml:"ipRanges>item"`
}

type ec2Group struct {
	Owner       string    `xml:"ownerId"`
	ID          string    `xml:"groupId"`
	Name        string    `xml:"groupName"`
	Description string    `xml:"groupDescription"`
	VPC         string    `xml:"vpcId"`
	Ingress     []ec2Rule `xml:"ipPermissions>item"`
}

// ec2Answer is a set of things under the name that EC2 has for it.
type ec2Answer interface {
	set() string
	items() any
}

type ec2Set[T any] struct {
	name string
	of   []T
}

func (s ec2Set[T]) set() string { return s.name }
func (s ec2Set[T]) items() any {
	return struct {
		Items []T `xml:"item"`
	}{s.of}
}

func (s *ec2Service) call(call *request) (any, *apiError) {
	if !slices.Contains([]string{"DescribeInstances", "DescribeSubnets", "DescribeSecurityGroups"}, call.action) {
		return nil, unknownAction(call)
	}
	if err := s.cloud.iam.authorize(call, "ec2:"+call.action, "*", nil); err != nil { // EC2 has no permission per thing for these
		return nil, err
	}
	for name := range call.form {
		if strings.HasPrefix(name, "Filter.") {
			return nil, apiErrorf("InvalidParameterValue", "the fake has no filters (%s): give ids", name)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch call.action {
	case "DescribeInstances":
		found, err := pick(call, s.instances, "InstanceId", "InvalidInstanceID", `^i-[0-9a-f]+$`, "instance ID")
		out := ec2Set[ec2Reservation]{name: "reservationSet"}
		for _, one := range found {
			out.of = append(out.of, ec2Reservation{ID: "r-" + strings.TrimPrefix(one.ID, "i-"), Owner: s.cloud.account, Instances: []ec2Instance{one}})
		}
		return out, err
	case "DescribeSubnets":
		found, err := pick(call, s.subnets, "SubnetId", "InvalidSubnetID", `^subnet-`, "subnet ID")
		return ec2Set[ec2Subnet]{"subnetSet", found}, err
	}
	found, err := pick(call, s.groups, "GroupId", "InvalidGroup", `^sg-`, "security group")
	return ec2Set[ec2Group]{"securityGroupInfo", found}, err
}

// pick finds what a call names by ids, all where it names none.
func pick[T any](call *request, all map[string]T, parameter, code, form, what string) ([]T, *apiError) {
	var ids []string
	for n := 1; call.form.Get(fmt.Sprintf("%s.%d", parameter, n)) != ""; n++ {
		ids = append(ids, call.form.Get(fmt.Sprintf("%s.%d", parameter, n)))
	}
	if len(ids) == 0 {
		for id := range all {
			ids = append(ids, id)
		}
		slices.Sort(ids)
	}
	malformed := code + ".Malformed"
	if code == "InvalidGroup" {
		malformed = "InvalidGroupId.Malformed"
	}
	var out []T
	for _, id := range ids {
		if !regexp.MustCompile(form).MatchString(id) {
			return nil, apiErrorf(malformed, "Invalid id: %q", id)
		}
		one, ok := all[id]
		if !ok {
			return nil, apiErrorf(code+".NotFound", "The %s '%s' does not exist", what, id)
		}
		out = append(out, one)
	}
	return out, nil
}
