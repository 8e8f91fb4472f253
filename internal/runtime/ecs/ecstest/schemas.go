package ecstest

import (
	"sync"

	logs "github.com/aws/aws-sdk-go-v2/service/cloudwatchlogs/schemas"
	ecs "github.com/aws/aws-sdk-go-v2/service/ecs/schemas"
	sqs "github.com/aws/aws-sdk-go-v2/service/sqs/schemas"
	"github.com/aws/smithy-go"
)

// operation is what a call of an action has and gives; nil is nothing.
type operation struct{ Input, Output *smithy.Schema }

// schemaOf finds the schemas of an action. The SDK has them as variables, and no list of them.
func schemaOf(service, action string) (operation, bool) {
	o, ok := operations()[service+":"+action]
	return o, ok
}

var operations = sync.OnceValue(func() map[string]operation {
	return map[string]operation{
		"ecs:CreateCluster":                {ecs.CreateClusterRequest, ecs.CreateClusterResponse},
		"ecs:CreateService":                {ecs.CreateServiceRequest, ecs.CreateServiceResponse},
		"ecs:DeleteCluster":                {ecs.DeleteClusterRequest, ecs.DeleteClusterResponse},
		"ecs:DeleteService":                {ecs.DeleteServiceRequest, ecs.DeleteServiceResponse},
		"ecs:DeleteTaskDefinitions":        {ecs.DeleteTaskDefinitionsRequest, ecs.DeleteTaskDefinitionsResponse},
		"ecs:DeregisterTaskDefinition":     {ecs.DeregisterTaskDefinitionRequest, ecs.DeregisterTaskDefinitionResponse},
		"ecs:DescribeCapacityProviders":    {ecs.DescribeCapacityProvidersRequest, ecs.DescribeCapacityProvidersResponse},
		"ecs:DescribeClusters":             {ecs.DescribeClustersRequest, ecs.DescribeClustersResponse},
		"ecs:DescribeContainerInstances":   {ecs.DescribeContainerInstancesRequest, ecs.DescribeContainerInstancesResponse},
		"ecs:DescribeServices":             {ecs.DescribeServicesRequest, ecs.DescribeServicesResponse},
		"ecs:DescribeTaskDefinition":       {ecs.DescribeTaskDefinitionRequest, ecs.DescribeTaskDefinitionResponse},
		"ecs:DescribeTasks":                {ecs.DescribeTasksRequest, ecs.DescribeTasksResponse},
		"ecs:ListClusters":                 {ecs.ListClustersRequest, ecs.ListClustersResponse},
		"ecs:ListContainerInstances":       {ecs.ListContainerInstancesRequest, ecs.ListContainerInstancesResponse},
		"ecs:ListServices":                 {ecs.ListServicesRequest, ecs.ListServicesResponse},
		"ecs:ListTagsForResource":          {ecs.ListTagsForResourceRequest, ecs.ListTagsForResourceResponse},
		"ecs:ListTaskDefinitionFamilies":   {ecs.ListTaskDefinitionFamiliesRequest, ecs.ListTaskDefinitionFamiliesResponse},
		"ecs:ListTaskDefinitions":          {ecs.ListTaskDefinitionsRequest, ecs.ListTaskDefinitionsResponse},
		"ecs:ListTasks":                    {ecs.ListTasksRequest, ecs.ListTasksResponse},
		"ecs:PutClusterCapacityProviders":  {ecs.PutClusterCapacityProvidersRequest, ecs.PutClusterCapacityProvidersResponse},
		"ecs:RegisterContainerInstance":    {ecs.RegisterContainerInstanceRequest, ecs.RegisterContainerInstanceResponse},
		"ecs:RegisterTaskDefinition":       {ecs.RegisterTaskDefinitionRequest, ecs.RegisterTaskDefinitionResponse},
		"ecs:RunTask":                      {ecs.RunTaskRequest, ecs.RunTaskResponse},
		"ecs:StartTask":                    {ecs.StartTaskRequest, ecs.StartTaskResponse},
		"ecs:StopTask":                     {ecs.StopTaskRequest, ecs.StopTaskResponse},
		"ecs:TagResource":                  {ecs.TagResourceRequest, ecs.TagResourceResponse},
		"ecs:UntagResource":                {ecs.UntagResourceRequest, ecs.UntagResourceResponse},
		"ecs:UpdateCluster":                {ecs.UpdateClusterRequest, ecs.UpdateClusterResponse},
		"ecs:UpdateClusterSettings":        {ecs.UpdateClusterSettingsRequest, ecs.UpdateClusterSettingsResponse},
		"ecs:UpdateService":                {ecs.UpdateServiceRequest, ecs.UpdateServiceResponse},
		"sqs:ChangeMessageVisibility":      {sqs.ChangeMessageVisibilityRequest, nil},
		"sqs:ChangeMessageVisibilityBatch": {sqs.ChangeMessageVisibilityBatchRequest, sqs.ChangeMessageVisibilityBatchResult},
		"sqs:CreateQueue":                  {sqs.CreateQueueRequest, sqs.CreateQueueResult},
		"sqs:DeleteMessage":                {sqs.DeleteMessageRequest, nil},
		"sqs:DeleteMessageBatch":           {sqs.DeleteMessageBatchRequest, sqs.DeleteMessageBatchResult},
		"sqs:DeleteQueue":                  {sqs.DeleteQueueRequest, nil},
		"sqs:GetQueueAttributes":           {sqs.GetQueueAttributesRequest, sqs.GetQueueAttributesResult},
		"sqs:GetQueueUrl":                  {sqs.GetQueueUrlRequest, sqs.GetQueueUrlResult},
		"sqs:ListQueues":                   {sqs.ListQueuesRequest, sqs.ListQueuesResult},
		"sqs:PurgeQueue":                   {sqs.PurgeQueueRequest, nil},
		"sqs:ReceiveMessage":               {sqs.ReceiveMessageRequest, sqs.ReceiveMessageResult},
		"sqs:SendMessage":                  {sqs.SendMessageRequest, sqs.SendMessageResult},
		"sqs:SetQueueAttributes":           {sqs.SetQueueAttributesRequest, nil},
		"logs:CreateLogGroup":              {logs.CreateLogGroupRequest, nil},
		"logs:CreateLogStream":             {logs.CreateLogStreamRequest, nil},
		"logs:DeleteLogGroup":              {logs.DeleteLogGroupRequest, nil},
		"logs:DescribeLogGroups":           {logs.DescribeLogGroupsRequest, logs.DescribeLogGroupsResponse},
		"logs:DescribeLogStreams":          {logs.DescribeLogStreamsRequest, logs.DescribeLogStreamsResponse},
		"logs:FilterLogEvents":             {logs.FilterLogEventsRequest, logs.FilterLogEventsResponse},
		"logs:GetLogEvents":                {logs.GetLogEventsRequest, logs.GetLogEventsResponse},
		"logs:PutLogEvents":                {logs.PutLogEventsRequest, logs.PutLogEventsResponse},
	}
})
