package deploy

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestTerraform checks the module as far as can be without the cloud: its form, and with Terraform itself that every
// argument and reference is one of the AWS provider's schema, and what the module makes where all of AWS is mocked.
func TestTerraform(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("terraform"); err != nil {
		t.Skip("[terraform] there is no terraform: the module is not checked")
	}
	dir := t.TempDir()
	mirror := filepath.Join(dir, "mirror")
	provider := filepath.Join(mirror, "registry.terraform.io/hashicorp/aws/6.25.0", runtime.GOOS+"_"+runtime.GOARCH, "terraform-provider-aws_v6.25.0_x5")
	build := exec.Command("go", "build", "-o", provider, ".")
	build.Dir = "ecs/awsschema"
	out, err := build.CombinedOutput()
	require.NoError(t, err, "%s", out)
	settings := filepath.Join(dir, "terraformrc")
	require.NoError(t, os.WriteFile(settings, []byte(`provider_installation {
  filesystem_mirror {
    path = "`+filepath.ToSlash(mirror)+`"
  }
}
`), 0o600))
	terraform := func(folder string, args ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), "terraform", append(args, "-no-color")...)
		cmd.Dir = filepath.Join(dir, "ecs", folder)
		cmd.Env = append(os.Environ(), "TF_CLI_CONFIG_FILE="+settings, "CHECKPOINT_DISABLE=1", "TF_IN_AUTOMATION=1")
		cmd.WaitDelay = time.Minute
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	works := func(folder string, args ...string) {
		t.Helper()
		out, err := terraform(folder, args...)
		require.NoError(t, err, "terraform %v in %s: %s", args, folder, out)
	}

	require.NoError(t, os.CopyFS(filepath.Join(dir, "ecs"), os.DirFS("ecs")))
	works("terraform", "fmt", "-check", "-recursive")
	works("terraform", "init")
	works("terraform", "validate")
	works("terraform", "test")

	example := "terraform/examples/dev"
	require.NoError(t, os.WriteFile(filepath.Join(dir, "ecs", example, "policy.json"), []byte(`{"Statement": []}`), 0o600))
	works(example, "init")
	works(example, "validate")

	// A check that lets everything pass would be none.
	for name, mistake := range map[string]string{
		"Unsupported argument":           `resource "aws_sqs_queue" "wrong" { nome = "x" }`,
		"Missing required argument":      "resource \"aws_lb_target_group\" \"wrong\" {\n  stickiness {\n  }\n}",
		"Unsupported attribute":          `output "wrong" { value = aws_lb.inner.host }`,
		"Invalid resource type":          `resource "aws_ecs_servise" "wrong" {}`,
		"Reference to undeclared":        `output "wrong" { value = var.nothing }`,
		"Incorrect attribute value type": `resource "aws_sqs_queue" "wrong" { name = ["x"] }`,
	} {
		wrong := filepath.Join(dir, "ecs/terraform/wrong.tf")
		require.NoError(t, os.WriteFile(wrong, []byte(mistake+"\n"), 0o600))
		out, err := terraform("terraform", "validate")
		require.Error(t, err, name)
		require.Contains(t, out, name)
		require.NoError(t, os.Remove(wrong))
	}
}

// TestTerraform_TheReadmeHasItAll: each variable and output, by its name and with what it says of itself.
func TestTerraform_TheReadmeHasItAll(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("ecs/terraform/README.md")
	require.NoError(t, err)
	for _, file := range []string{"ecs/terraform/variables.tf", "ecs/terraform/outputs.tf"} {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		found := regexp.MustCompile(`(?m)^(?:variable|output) "(\w+)" \{\n  description = "(.*)"$`).FindAllStringSubmatch(string(text), -1)
		require.Greater(t, len(found), 5, file)
		require.Len(t, found, strings.Count("\n"+string(text), "\nvariable ")+strings.Count("\n"+string(text), "\noutput "), "each has a description")
		for _, f := range found {
			line := regexp.MustCompile("(?m)^\\| `" + f[1] + "` \\|.*" + regexp.QuoteMeta(strings.ReplaceAll(f[2], "<", "&lt;")) + " \\|$")
			require.Regexp(t, line, string(page), "README.md and %s differ in %s", file, f[1])
		}
	}
}
