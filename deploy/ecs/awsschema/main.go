// Awsschema stands in for the AWS provider of Terraform where that cannot be fetched: it has the schema of the
// resources that the module uses, and nothing behind it. So `terraform validate` and `terraform test`, with mocks, check
// the module as they would with the provider itself: names, kinds and required arguments. What the provider checks of
// values, and what AWS makes of them, they cannot say.
//
// The test of deploy/ builds it, and hands it to Terraform as hashicorp/aws. It is a module of its own, as
// Layover needs nothing of it.
package main

import (
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"log"
	"maps"
	"slices"

	"github.com/hashicorp/terraform-plugin-go/tfprotov5"
	"github.com/hashicorp/terraform-plugin-go/tfprotov5/tf5server"
	"github.com/hashicorp/terraform-plugin-go/tftypes"
)

// schemaText is made by extract.py.
//
//go:embed schema.json
var schemaText []byte

type book struct {
	Resource, Data, Ephemeral map[string]block
}

type block struct {
	Attributes map[string]struct {
		Type               json.RawMessage
		Required, Computed bool
	}
	Blocks map[string]struct {
		Block    block
		Nesting  string
		Min, Max int64
	}
}

func main() {
	var b book
	if err := json.Unmarshal(schemaText, &b); err != nil {
		log.Fatal(err)
	}
	err := tf5server.Serve("registry.terraform.io/hashicorp/aws", func() tfprotov5.ProviderServer { return provider{book: b} })
	if err != nil {
		log.Fatal(err)
	}
}

// provider answers for the schema; Terraform asks no more than that where it validates, or where all is mocked.
type provider struct {
	tfprotov5.ProviderServer
	book book
}

func (p provider) GetMetadata(context.Context, *tfprotov5.GetMetadataRequest) (*tfprotov5.GetMetadataResponse, error) {
	return &tfprotov5.GetMetadataResponse{ServerCapabilities: &tfprotov5.ServerCapabilities{}}, nil
}

func (p provider) GetProviderSchema(context.Context, *tfprotov5.GetProviderSchemaRequest) (*tfprotov5.GetProviderSchemaResponse, error) {
	text := tftypes.String
	return &tfprotov5.GetProviderSchemaResponse{
		Provider: &tfprotov5.Schema{Block: &tfprotov5.SchemaBlock{Attributes: []*tfprotov5.SchemaAttribute{
			{Name: "region", Type: text, Optional: true}, {Name: "profile", Type: text, Optional: true},
		}}},
		ResourceSchemas:          schemas(p.book.Resource),
		DataSourceSchemas:        schemas(p.book.Data),
		EphemeralResourceSchemas: schemas(p.book.Ephemeral),
		ServerCapabilities:       &tfprotov5.ServerCapabilities{},
	}, nil
}

func schemas(of map[string]block) map[string]*tfprotov5.Schema {
	out := map[string]*tfprotov5.Schema{}
	for name, b := range of {
		out[name] = &tfprotov5.Schema{Block: b.schema(true)}
	}
	return out
}

// schema is that of a block. The bindings do not say which arguments the provider fills in where they are left out: at the top
// all may be, further down none.
func (b block) schema(top bool) *tfprotov5.SchemaBlock {
	out := &tfprotov5.SchemaBlock{}
	for _, name := range slices.Sorted(maps.Keys(b.Attributes)) {
		a := b.Attributes[name]
		kind, err := tftypes.ParseJSONType(a.Type) //nolint:staticcheck // there is no other way to read a type
		if err != nil {
			log.Fatal(fmt.Errorf("the type of %s: %w", name, err))
		}
		writeOnly := name == "password_wo"
		out.Attributes = append(out.Attributes, &tfprotov5.SchemaAttribute{
			Name: name, Type: kind, Required: a.Required, Optional: !a.Required && !a.Computed,
			Computed: a.Computed || top && !a.Required && !writeOnly, WriteOnly: writeOnly,
		})
	}
	nesting := map[string]tfprotov5.SchemaNestedBlockNestingMode{
		"list": tfprotov5.SchemaNestedBlockNestingModeList, "set": tfprotov5.SchemaNestedBlockNestingModeSet,
		"single": tfprotov5.SchemaNestedBlockNestingModeSingle,
	}
	for _, name := range slices.Sorted(maps.Keys(b.Blocks)) {
		nested := b.Blocks[name]
		out.BlockTypes = append(out.BlockTypes, &tfprotov5.SchemaNestedBlock{
			TypeName: name, Block: nested.Block.schema(false), Nesting: nesting[nested.Nesting], MinItems: nested.Min, MaxItems: nested.Max,
		})
	}
	return out
}

func (p provider) PrepareProviderConfig(_ context.Context, req *tfprotov5.PrepareProviderConfigRequest) (*tfprotov5.PrepareProviderConfigResponse, error) {
	return &tfprotov5.PrepareProviderConfigResponse{PreparedConfig: req.Config}, nil
}

func (p provider) ValidateResourceTypeConfig(context.Context, *tfprotov5.ValidateResourceTypeConfigRequest) (*tfprotov5.ValidateResourceTypeConfigResponse, error) {
	return &tfprotov5.ValidateResourceTypeConfigResponse{}, nil
}

func (p provider) ValidateDataSourceConfig(context.Context, *tfprotov5.ValidateDataSourceConfigRequest) (*tfprotov5.ValidateDataSourceConfigResponse, error) {
	return &tfprotov5.ValidateDataSourceConfigResponse{}, nil
}

func (p provider) ValidateEphemeralResourceConfig(context.Context, *tfprotov5.ValidateEphemeralResourceConfigRequest) (*tfprotov5.ValidateEphemeralResourceConfigResponse, error) {
	return &tfprotov5.ValidateEphemeralResourceConfigResponse{}, nil
}

func (p provider) StopProvider(context.Context, *tfprotov5.StopProviderRequest) (*tfprotov5.StopProviderResponse, error) {
	return &tfprotov5.StopProviderResponse{}, nil
}
