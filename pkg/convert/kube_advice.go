package convert

// kubeAdvices are for what Deployments and Pods of Kubernetes have and PodmanV0 has not.
var kubeAdvices = advices{
	"annotations":                    {"they are for what runs in Kubernetes", "write those that matter into the Deployment's metadata"},
	"strategy":                       {"the device replaces what changed, in the order of dependsOn", "remove it"},
	"revisionHistoryLimit":           {"it has the same name in a Deployment of fleet", "write it into spec"},
	"minReadySeconds":                {"it is part of the score's data", "write it there"},
	"serviceAccountName":             {"a device has no API for its containers", "remove it"},
	"serviceAccount":                 {"a device has no API for its containers", "remove it"},
	"affinity":                       {"a Deployment selects devices by labels", "write them into its targetSelector"},
	"tolerations":                    {"a Deployment selects devices by labels", "write them into its targetSelector"},
	"nodeName":                       {"a Deployment selects devices by labels", "select the label device-id"},
	"shareProcessNamespace":          {"containers of fleet have processes of their own", "remove it"},
	"activeDeadlineSeconds":          {"only init containers and jobs have a time", "write a service with a schedule and timeoutSeconds"},
	"dnsPolicy":                      {"containers ask whom the device asks", "write network.dns"},
	"dnsConfig":                      {"it is no configuration that PodmanV0 takes", "correct it"},
	"subdomain":                      {"services are reached by their own names", "remove it"},
	"initContainers.*.restartPolicy": {"init containers end", "write it as a service"},
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
