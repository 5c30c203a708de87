package convert

// kubeAdvices are for what Deployments and Pods of Kubernetes have and PodmanV0 has not.
var kubeAdvices = advices{
	"annotations":                          {"they are for what runs in Kubernetes", "write those that matter into the Deployment's metadata"},
	"strategy":                             {"the device replaces what changed, in the order of dependsOn", "remove it"},
	"revisionHistoryLimit":                 {"it has the same name in a Deployment of fleet", "write it into spec"},
	"minReadySeconds":                      {"it is part of the score's data", "write it there"},
	"serviceAccountName":                   {"a device has no API for its containers", "remove it"},
	"serviceAccount":                       {"a device has no API for its containers", "remove it"},
	"affinity":                             {"a Deployment selects devices by labels", "write them into its targetSelector"},
	"tolerations":                          {"a Deployment selects devices by labels", "write them into its targetSelector"},
	"nodeName":                             {"a Deployment selects devices by labels", "select the label device-id"},
	"updateStrategy":                       {"the device replaces what changed, in the order of dependsOn", "remove it"},
	"serviceName":                          {"services of one Deployment reach each other by the names of the services", "remove it"},
	"podManagementPolicy":                  {"each device runs the Deployment once", "remove it"},
	"ordinals":                             {"each device runs the Deployment once", "remove it"},
	"persistentVolumeClaimRetentionPolicy": {"it is a field of the Deployment", "write spec.volumeRetention"},
	"progressDeadlineSeconds":              {"a device that does not get ready counts as failed, with the reason", "remove it"},
	"paused":                               {"a Deployment of fleet is applied when it is there", "remove it, or apply it later"},
	"shareProcessNamespace":                {"containers of fleet have processes of their own", "remove it"},
	"activeDeadlineSeconds":                {"only init containers and jobs have a time", "write a service with a schedule and timeoutSeconds"},
	"dnsPolicy":                            {"containers ask whom the device asks", "write network.dns"},
	"dnsConfig":                            {"it is no configuration that PodmanV0 takes", "correct it"},
	"subdomain":                            {"services are reached by their own names", "remove it"},
	"initContainers.*.restartPolicy":       {"init containers end", "write it as a service"},
}

// kubeContainerAdvices are for containers.
var kubeContainerAdvices = advices{
	"stdin":                        {"nobody is at the input of a container on a device", "remove it"},
	"stdinOnce":                    {"nobody is at the input of a container on a device", "remove it"},
	"tty":                          {"no terminal is at a container on a device", "remove it"},
	"securityContext.privileged":   {"no container gets the whole device", "name what it needs: devices, capabilities, sysctls"},
	"securityContext.runAsNonRoot": {"fleet does not look into images", "give runAsUser"},
	"resources.requests.cpu":       {"PodmanV0 limits processors, and reserves none", "remove it"},
	"resources.limits.*":           {"PodmanV0 limits memory and processors", "name devices under devices or cdiDevices"},
	"resources.requests.*":         {"PodmanV0 reserves memory only", "remove it"},
	"startupProbe":                 {"a probe is exec, httpGet, tcpSocket or grpc with the number of a port of the container", "give the number, and no host"},
	"livenessProbe":                {"a probe is exec, httpGet, tcpSocket or grpc with the number of a port of the container", "give the number, and no host"},
	"readinessProbe":               {"a probe is exec, httpGet, tcpSocket or grpc with the number of a port of the container", "give the number, and no host"},
	"lifecycle.postStart":          {"a hook is exec or httpGet with the number of a port", "write a command"},
	"lifecycle.preStop":            {"a hook is exec or httpGet with the number of a port", "write a command"},
	"lifecycle.stopSignal":         {"it is a field of the service", "write stopSignal there"},
	"restartPolicy":                {"containers of a Pod have one policy", "write it as a service"},
	"terminationMessagePath":       {"the agent reports the last lines of the output", "remove it"},
	"terminationMessagePolicy":     {"the agent reports the last lines of the output", "remove it"},
}

var kubeSecurityAdvices = advices{
	"fsGroup":             {"volumes belong to who writes them first", "see userNamespace in docs/reference/podman-v0.md"},
	"fsGroupChangePolicy": {"volumes belong to who writes them first", "remove it"},
	"runAsNonRoot":        {"fleet does not look into images", "give runAsUser"},
}

var kubeVolumeAdvices = advices{
	"hostPath.type":      {"the path has to be there", "make it on the device"},
	"emptyDir.sizeLimit": {"rootless volumes have no size", "use medium: Memory for a bounded one"},
	"configMap.optional": {"what a score names must be there", "create it, if only empty"},
	"secret.optional":    {"what a score names must be there", "create it, if only empty"},
}

// kubeClaimAdvices are for templates of claims.
var kubeClaimAdvices = advices{
	"accessModes":                {"one device has the volume", "remove it"},
	"resources.requests.storage": {"rootless volumes have no size", "remove it, or give the directory of a disk of its own (hostPath)"},
	"storageClassName":           {"volumes are on the device's disk", "use hostPath for another disk"},
	"volumeMode":                 {"volumes are directories", "name a block device under devices"},
}

// kubeJobAdvices are for Jobs and CronJobs.
var kubeJobAdvices = advices{
	"backoffLimit":               {"fleet tries again without end with restartPolicy OnFailure, ever less often, and never with Never", "remove it"},
	"backoffLimitPerIndex":       {"each device runs the job once", "remove it"},
	"maxFailedIndexes":           {"each device runs the job once", "remove it"},
	"completionMode":             {"each device runs the job once", "remove it"},
	"activeDeadlineSeconds":      {"only runs of a schedule and init containers have a time, of some hours at most", "end the program yourself: timeout(1)"},
	"ttlSecondsAfterFinished":    {"the device shows how the last run ended, until the next one", "remove it"},
	"successfulJobsHistoryLimit": {"the device shows how the last run ended, until the next one", "remove it"},
	"failedJobsHistoryLimit":     {"the device shows how the last run ended, until the next one", "remove it"},
	"suspend":                    {"a Deployment of fleet is applied when it is there", "remove it, or apply it later"},
	"podFailurePolicy":           {"a run that ends with another code than 0 has failed", "remove it"},
	"successPolicy":              {"a run that ends with another code than 0 has failed", "remove it"},
	"podReplacementPolicy":       {"a run begins when the one before ended", "remove it"},
	"managedBy":                  {"the device runs the job", "remove it"},
	"concurrencyPolicy":          {"runs never overlap: a run whose time comes while the one before runs is left out", "choose Forbid or Replace"},
	"startingDeadlineSeconds":    {"a run that was missed is left out", "write schedule.missedRuns: RunOnce to make up for the last one"},
}
