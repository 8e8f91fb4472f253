package ecs

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials/stscreds"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatchlogs"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go/logging"
)

// place says which account and region a cluster is in.
type place struct {
	region string // "" is that of the SDK
	role   string // ARN to take on; "" is none
}

// account is one account in one region, with one set of credentials, and a budget for what is asked of it.
//
// Of each client it holds the few methods that are called, and not the client: the linker drops the
// rest of the SDK, which is most of it.
type account struct {
	place
	config aws.Config
	budget *budget

	registerTaskDefinition     call[ecs.RegisterTaskDefinitionInput, ecs.RegisterTaskDefinitionOutput, ecs.Options]
	deregisterTaskDefinition   call[ecs.DeregisterTaskDefinitionInput, ecs.DeregisterTaskDefinitionOutput, ecs.Options]
	deleteTaskDefinitions      call[ecs.DeleteTaskDefinitionsInput, ecs.DeleteTaskDefinitionsOutput, ecs.Options]
	describeTaskDefinition     call[ecs.DescribeTaskDefinitionInput, ecs.DescribeTaskDefinitionOutput, ecs.Options]
	listTaskDefinitions        call[ecs.ListTaskDefinitionsInput, ecs.ListTaskDefinitionsOutput, ecs.Options]
	listTaskDefinitionFamilies call[ecs.ListTaskDefinitionFamiliesInput, ecs.ListTaskDefinitionFamiliesOutput, ecs.Options]
	runTask                    call[ecs.RunTaskInput, ecs.RunTaskOutput, ecs.Options]
	stopTask                   call[ecs.StopTaskInput, ecs.StopTaskOutput, ecs.Options]
	listTasks                  call[ecs.ListTasksInput, ecs.ListTasksOutput, ecs.Options]
	describeTasks              call[ecs.DescribeTasksInput, ecs.DescribeTasksOutput, ecs.Options]
	describeClusters           call[ecs.DescribeClustersInput, ecs.DescribeClustersOutput, ecs.Options]
	createService              call[ecs.CreateServiceInput, ecs.CreateServiceOutput, ecs.Options]
	updateService              call[ecs.UpdateServiceInput, ecs.UpdateServiceOutput, ecs.Options]
	deleteService              call[ecs.DeleteServiceInput, ecs.DeleteServiceOutput, ecs.Options]
	describeServices           call[ecs.DescribeServicesInput, ecs.DescribeServicesOutput, ecs.Options]
	listServices               call[ecs.ListServicesInput, ecs.ListServicesOutput, ecs.Options]
	describeContainerInstances call[ecs.DescribeContainerInstancesInput, ecs.DescribeContainerInstancesOutput, ecs.Options]

	getLogEvents      call[cloudwatchlogs.GetLogEventsInput, cloudwatchlogs.GetLogEventsOutput, cloudwatchlogs.Options]
	describeLogGroups call[cloudwatchlogs.DescribeLogGroupsInput, cloudwatchlogs.DescribeLogGroupsOutput, cloudwatchlogs.Options]

	receiveMessage     call[sqs.ReceiveMessageInput, sqs.ReceiveMessageOutput, sqs.Options]
	deleteMessageBatch call[sqs.DeleteMessageBatchInput, sqs.DeleteMessageBatchOutput, sqs.Options]
	getQueueAttributes call[sqs.GetQueueAttributesInput, sqs.GetQueueAttributesOutput, sqs.Options]

	getCallerIdentity call[sts.GetCallerIdentityInput, sts.GetCallerIdentityOutput, sts.Options]
}

// call is one method of a client of the SDK.
type call[In, Out, Opts any] func(context.Context, *In, ...func(*Opts)) (*Out, error)

// tries is how often a change is tried while AWS says that it is too busy. Questions are asked once: who
// asks goes by the budget.
const tries = 6

// openAccount finds credentials by the SDK's default chain, and takes on the role of p where it has one.
func openAccount(ctx context.Context, p place, perSecond float64, log *slog.Logger) (*account, error) {
	config, err := awsconfig.LoadDefaultConfig(ctx, func(o *awsconfig.LoadOptions) error {
		if p.region != "" {
			o.Region = p.region
		}
		o.Logger = logging.LoggerFunc(func(_ logging.Classification, format string, args ...any) { // not to stderr by itself
			log.Debug("the SDK of AWS says", "text", fmt.Sprintf(format, args...))
		})
		o.Retryer = func() aws.Retryer {
			return retry.NewAdaptiveMode(func(o *retry.AdaptiveModeOptions) {
				o.StandardOptions = append(o.StandardOptions, func(o *retry.StandardOptions) { o.MaxAttempts = tries })
			})
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the configuration of AWS: %w", err)
	}
	if config.Region == "" {
		return nil, invalid("set ecs.region, LAYOVER_ECS_REGION or AWS_REGION", "nothing says in which AWS region the cluster is")
	}
	if p.role != "" {
		config.Credentials = aws.NewCredentialsCache(stscreds.NewAssumeRoleProvider(sts.NewFromConfig(config), p.role,
			func(o *stscreds.AssumeRoleOptions) { o.RoleSessionName = "layover" }))
	}
	a := &account{place: p, config: config, budget: newBudget(perSecond)}
	a.region = config.Region
	a.bind()
	return a, nil
}

func (a *account) bind() {
	e := ecs.NewFromConfig(a.config)
	a.registerTaskDefinition, a.deregisterTaskDefinition = e.RegisterTaskDefinition, e.DeregisterTaskDefinition
	a.deleteTaskDefinitions, a.describeTaskDefinition = e.DeleteTaskDefinitions, e.DescribeTaskDefinition
	a.listTaskDefinitions, a.listTaskDefinitionFamilies = e.ListTaskDefinitions, e.ListTaskDefinitionFamilies
	a.runTask, a.stopTask, a.listTasks, a.describeTasks = e.RunTask, e.StopTask, e.ListTasks, e.DescribeTasks
	a.describeClusters, a.describeContainerInstances = e.DescribeClusters, e.DescribeContainerInstances
	a.createService, a.updateService, a.deleteService = e.CreateService, e.UpdateService, e.DeleteService
	a.describeServices, a.listServices = e.DescribeServices, e.ListServices

	l := cloudwatchlogs.NewFromConfig(a.config)
	a.getLogEvents, a.describeLogGroups = l.GetLogEvents, l.DescribeLogGroups

	q := sqs.NewFromConfig(a.config)
	a.receiveMessage, a.deleteMessageBatch, a.getQueueAttributes = q.ReceiveMessage, q.DeleteMessageBatch, q.GetQueueAttributes

	a.getCallerIdentity = sts.NewFromConfig(a.config).GetCallerIdentity
}

// asked is how often a question is asked whose connection breaks off.
const asked = 4

// ask makes one call that changes nothing, within the budget. Where AWS says that there are too many, it
// is made again, less and less often, until ctx ends: nothing is told that was not asked.
func ask[In, Out any](ctx context.Context, a *account, do call[In, Out, ecs.Options], in *In) (*Out, error) {
	for broken := 1; ; {
		if err := a.budget.wait(ctx); err != nil {
			return nil, err
		}
		out, err := do(ctx, in, once)
		switch {
		case busy(err):
			a.budget.tooMany()
		case brokeOff(err) && broken < asked && ctx.Err() == nil:
			broken++
		case err != nil:
			return nil, err
		default:
			a.budget.fine()
			return out, nil
		}
	}
}

// change makes one call that changes something. It waits for nobody, and counts for the budget, so that
// questions make room for it.
func change[In, Out any](ctx context.Context, a *account, do call[In, Out, ecs.Options], in *In) (*Out, error) {
	a.budget.take()
	return do(ctx, in)
}

// once turns the retries of the SDK off.
func once(o *ecs.Options) { o.Retryer = aws.NopRetryer{} }
