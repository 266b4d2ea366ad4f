package check

import (
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

const manifests = "../kubernetes"

// cluster is what `kubectl apply -k` would send, one object of each kind.
type cluster struct {
	config     *corev1.ConfigMap
	policy     *corev1.ConfigMap
	deployment *appsv1.Deployment
	service    *corev1.Service
	pdb        *policyv1.PodDisruptionBudget
	network    *networkingv1.NetworkPolicy
	count      int
}

func (c cluster) pod() corev1.PodSpec         { return c.deployment.Spec.Template.Spec }
func (c cluster) container() corev1.Container { return c.pod().Containers[0] }

// render builds the kustomization and decodes the result as an API server with strict validation does.
func render(t *testing.T) cluster {
	t.Helper()
	built, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), manifests)
	if err != nil {
		t.Fatalf("build the kustomization: %v", err)
	}
	var c cluster
	for _, rendered := range built.Resources() {
		text, err := rendered.AsYAML()
		if err != nil {
			t.Fatalf("AsYAML: %v", err)
		}
		switch object := decode(t, text).(type) {
		case *corev1.ConfigMap:
			if object.Name == "larder-policy" {
				c.policy = object
			} else {
				c.config = object
			}
		case *appsv1.Deployment:
			c.deployment = object
		case *corev1.Service:
			c.service = object
		case *policyv1.PodDisruptionBudget:
			c.pdb = object
		case *networkingv1.NetworkPolicy:
			c.network = object
		default:
			t.Fatalf("the kustomization applies a %T, want only ConfigMap, Deployment, Service, PodDisruptionBudget and NetworkPolicy", object)
		}
		c.count++
	}
	if c.config == nil || c.policy == nil || c.deployment == nil || c.service == nil || c.pdb == nil || c.network == nil || c.count != 6 {
		t.Fatalf("the kustomization applies %d objects; want two ConfigMaps and one each of Deployment, Service, "+
			"PodDisruptionBudget and NetworkPolicy", c.count)
	}
	if n := len(c.pod().Containers); n != 1 {
		t.Fatalf("the pod has %d containers, want 1", n)
	}
	return c
}

// decode fails the test on an unknown or misspelt field, a duplicate key or a value of the wrong type.
func decode(t *testing.T, text []byte) runtime.Object {
	t.Helper()
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		appsv1.AddToScheme, corev1.AddToScheme, networkingv1.AddToScheme, policyv1.AddToScheme,
	} {
		if err := add(scheme); err != nil {
			t.Fatalf("AddToScheme: %v", err)
		}
	}
	codecs := serializer.NewCodecFactory(scheme, serializer.EnableStrict)
	object, _, err := codecs.UniversalDeserializer().Decode(text, nil, nil)
	if err != nil {
		t.Fatalf("decode strictly: %v\n%s", err, text)
	}
	return object
}

// Every file, the example too, not only what the kustomization lists.
func TestManifestsDecodeStrictly(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(manifests, "*.yaml"))
	if err != nil || len(files) < 8 {
		t.Fatalf("Glob = %v, %v; want at least 8 files", files, err)
	}
	for _, file := range files {
		if filepath.Base(file) == "kustomization.yaml" {
			continue // render reads it, strictly
		}
		t.Run(filepath.Base(file), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatalf("ReadFile: %v", err)
			}
			decode(t, text)
		})
	}
}

func TestSelectorsMatchThePods(t *testing.T) {
	c := render(t)
	selectors := map[string]*metav1.LabelSelector{
		"Deployment":          c.deployment.Spec.Selector,
		"Service":             {MatchLabels: c.service.Spec.Selector},
		"PodDisruptionBudget": c.pdb.Spec.Selector,
		"NetworkPolicy":       &c.network.Spec.PodSelector,
	}
	for _, spread := range c.pod().TopologySpreadConstraints {
		selectors["spread over "+spread.TopologyKey] = spread.LabelSelector
	}
	if len(selectors) != 6 {
		t.Errorf("%d selectors, want the four objects' and a spread over nodes and over zones", len(selectors))
	}
	for name, labelSelector := range selectors {
		selector, err := metav1.LabelSelectorAsSelector(labelSelector)
		if err != nil {
			t.Errorf("%s has the selector %s: %v, want a valid one", name, shown(labelSelector), err)
		} else if selector.Empty() || !selector.Matches(labels.Set(c.deployment.Spec.Template.Labels)) {
			t.Errorf("%s has the selector %q, want one that matches the pods' labels %v alone", name, selector, c.deployment.Spec.Template.Labels)
		}
	}
}

// A liveness probe that follows Redis would turn its outage into a restart of every replica.
func TestProbesAskTheRightName(t *testing.T) {
	c := render(t)
	grpc := containerPort(t, c, "grpc")
	for name, want := range map[string]struct {
		probe   *corev1.Probe
		service string
	}{
		"startup":   {c.container().StartupProbe, "live"},
		"liveness":  {c.container().LivenessProbe, "live"},
		"readiness": {c.container().ReadinessProbe, "ready"},
	} {
		switch p := want.probe; {
		case p == nil || p.GRPC == nil || p.GRPC.Service == nil:
			t.Errorf("the %s probe is %s, want a gRPC probe with a service name", name, shown(p))
		case *p.GRPC.Service != want.service || p.GRPC.Port != grpc:
			t.Errorf("the %s probe asks %q on port %d, want %q on %d", name, *p.GRPC.Service, p.GRPC.Port, want.service, grpc)
		}
	}
}

func TestPortsAgree(t *testing.T) {
	c := render(t)
	grpc, admin := containerPort(t, c, "grpc"), containerPort(t, c, "admin")

	if exposed, declared := exposedPorts(t), []int32{grpc, admin}; !slices.Equal(exposed, declared) {
		t.Errorf("the image exposes %v, want what the container declares, %v", exposed, declared)
	}
	if c.service.Spec.ClusterIP != corev1.ClusterIPNone {
		t.Errorf("the Service has the clusterIP %q, want None: clients would pin themselves to one pod", c.service.Spec.ClusterIP)
	}
	served := map[string]int32{}
	for _, port := range c.service.Spec.Ports {
		served[port.Name] = port.Port
		if port.TargetPort != intstr.FromString(port.Name) || port.Port != containerPort(t, c, port.Name) {
			t.Errorf("Service port %s is %d to %s, want %d to %s: a headless Service cannot translate ports",
				port.Name, port.Port, port.TargetPort.String(), containerPort(t, c, port.Name), port.Name)
		}
	}
	if len(served) != 2 {
		t.Errorf("the Service has ports %v, want grpc and admin", served)
	}
	annotations := c.deployment.Spec.Template.Annotations
	if annotations["prometheus.io/scrape"] != "true" || annotations["prometheus.io/path"] != "/metrics" ||
		annotations["prometheus.io/port"] != strconv.Itoa(int(admin)) {
		t.Errorf("Prometheus is told %v, want /metrics on %d", annotations, admin)
	}
}

func TestDrainFitsTheGracePeriod(t *testing.T) {
	c := render(t)
	drain, stop := duration(t, c.config.Data["LARDER_DRAIN_DELAY"]), duration(t, c.config.Data["LARDER_STOP_TIMEOUT"])

	grace := c.pod().TerminationGracePeriodSeconds
	if grace == nil || time.Duration(*grace)*time.Second <= drain+stop+5*time.Second {
		t.Errorf("terminationGracePeriodSeconds = %s, want more than %v + %v + 5s", shown(grace), drain, stop)
	}
	ready := c.container().ReadinessProbe
	if noticed := time.Duration(ready.PeriodSeconds*ready.FailureThreshold) * time.Second; noticed == 0 || noticed >= drain {
		t.Errorf("readiness notices a drain after %v, want less than %v and more than 0", noticed, drain)
	}
}

func TestRolloutsAndNodeDrainsKeepCapacity(t *testing.T) {
	c := render(t)
	if replicas := c.deployment.Spec.Replicas; replicas == nil || *replicas != 3 {
		t.Errorf("the Deployment has %s replicas, want 3", shown(replicas))
	}
	zero, one := intstr.FromInt32(0), intstr.FromInt32(1)
	if rolling := c.deployment.Spec.Strategy.RollingUpdate; rolling == nil || rolling.MaxUnavailable == nil ||
		rolling.MaxSurge == nil || *rolling.MaxUnavailable != zero || *rolling.MaxSurge != one {
		t.Errorf("the rolling update is %s, want maxUnavailable 0 and maxSurge 1", shown(rolling))
	}
	if pdb := c.pdb.Spec; pdb.MaxUnavailable == nil || *pdb.MaxUnavailable != one || pdb.MinAvailable != nil {
		t.Errorf("the disruption budget is %s, want maxUnavailable 1 and no minAvailable", shown(pdb))
	}
}

// The "restricted" Pod Security Standard, and a little more.
func TestPodIsConfined(t *testing.T) {
	c := render(t)
	no := func(b *bool) bool { return b != nil && !*b }
	yes := func(b *bool) bool { return b != nil && *b }
	_, limited := c.container().Resources.Limits[corev1.ResourceMemory]
	pod, own := c.pod().SecurityContext, c.container().SecurityContext
	if pod == nil || own == nil {
		t.Fatalf("the pod has the security context %s and the container %s, want both to have one", shown(pod), shown(own))
	}
	container := c.container()
	for _, rule := range []struct {
		want string
		held bool
		got  any
	}{
		{"runAsNonRoot true", yes(pod.RunAsNonRoot), pod.RunAsNonRoot},
		{"runAsUser as in the image", pod.RunAsUser != nil && strconv.FormatInt(*pod.RunAsUser, 10) == strings.Split(imageUser(t), ":")[0], pod.RunAsUser},
		{"seccomp RuntimeDefault", pod.SeccompProfile != nil && pod.SeccompProfile.Type == corev1.SeccompProfileTypeRuntimeDefault, pod.SeccompProfile},
		{"no privilege escalation", no(own.AllowPrivilegeEscalation), own.AllowPrivilegeEscalation},
		{"a read-only root", yes(own.ReadOnlyRootFilesystem), own.ReadOnlyRootFilesystem},
		{"all capabilities dropped", own.Capabilities != nil && slices.Equal(own.Capabilities.Drop, []corev1.Capability{"ALL"}) && len(own.Capabilities.Add) == 0, own.Capabilities},
		{"no service account token", no(c.pod().AutomountServiceAccountToken), c.pod().AutomountServiceAccountToken},
		{"no service links", no(c.pod().EnableServiceLinks), c.pod().EnableServiceLinks},
		{"no network, PIDs or IPC of the host", !c.pod().HostNetwork && !c.pod().HostPID && !c.pod().HostIPC, []bool{c.pod().HostNetwork, c.pod().HostPID, c.pod().HostIPC}},
		{"requests for CPU and memory", len(container.Resources.Requests) == 2, container.Resources},
		{"a memory limit", limited, container.Resources},
		{"GOMEMLIMIT that follows the memory limit", followsMemoryLimit(container.Env), container.Env},
		{"no credential among the variables", !slices.ContainsFunc(settingsIn(c), func(name string) bool { return credential.MatchString(name) && !strings.HasSuffix(name, "_FILE") }), settingsIn(c)},
		{"the ConfigMap " + c.config.Name + " as the only source of variables", len(container.EnvFrom) == 1 && container.EnvFrom[0].ConfigMapRef != nil && container.EnvFrom[0].ConfigMapRef.Name == c.config.Name, container.EnvFrom},
		{"an image with a tag other than latest", strings.Contains(container.Image, ":") && !strings.HasSuffix(container.Image, ":latest"), container.Image},
	} {
		if !rule.held {
			t.Errorf("the pod: got %s, want %s", shown(rule.got), rule.want)
		}
	}
}

// The password's path must be a key of the mounted Secret, and nonroot must be able to read it.
func TestPasswordIsAMountedFile(t *testing.T) {
	c := render(t)
	text, err := os.ReadFile(filepath.Join(manifests, "secret.example.yaml"))
	if err != nil {
		t.Fatalf("ReadFile: %v", err)
	}
	example := decode(t, text).(*corev1.Secret)

	i := slices.IndexFunc(c.container().Env, func(e corev1.EnvVar) bool { return e.Name == "REDIS_PASSWORD_FILE" })
	if i < 0 {
		t.Fatalf("the pods get the variables %v, want REDIS_PASSWORD_FILE among them", settingsIn(c))
	}
	dir, key := path.Split(c.container().Env[i].Value)
	if example.StringData[key] == "" {
		t.Errorf("the example Secret has %v, want a value of the key %q", example.StringData, key)
	}
	if !strings.Contains(example.StringData[key], "example") {
		t.Errorf("the example Secret has the value %q, want one that says that it is an example", example.StringData[key])
	}
	i = slices.IndexFunc(c.container().VolumeMounts, func(m corev1.VolumeMount) bool { return m.MountPath == path.Clean(dir) && m.ReadOnly })
	if i < 0 {
		t.Fatalf("the container has the mounts %s, want a read-only one at %s", shown(c.container().VolumeMounts), path.Clean(dir))
	}
	mounted := c.container().VolumeMounts[i].Name
	if !slices.ContainsFunc(c.pod().Volumes, func(v corev1.Volume) bool {
		return v.Name == mounted && v.Secret != nil && v.Secret.SecretName == example.Name &&
			v.Secret.DefaultMode != nil && *v.Secret.DefaultMode == 0o440
	}) {
		t.Errorf("the pod has the volumes %s, want %s with the Secret %s in mode 0440, which is 288", shown(c.pod().Volumes), mounted, example.Name)
	}
	if group := c.pod().SecurityContext.FSGroup; group == nil || *group != *c.pod().SecurityContext.RunAsUser {
		t.Errorf("fsGroup = %s, want runAsUser, %s: otherwise the container cannot read the Secret", shown(group), shown(c.pod().SecurityContext.RunAsUser))
	}
}

// The policy is a key of the mounted ConfigMap, in a folder of its own that changes with it, and the binary takes it.
func TestPolicyIsAMountedFile(t *testing.T) {
	c := render(t)
	i := slices.IndexFunc(c.container().Env, func(e corev1.EnvVar) bool { return e.Name == "LARDER_POLICY_FILE" })
	if i < 0 {
		t.Fatalf("the pods get the variables %v, want LARDER_POLICY_FILE among them", settingsIn(c))
	}
	dir, key := path.Split(c.container().Env[i].Value)
	text := c.policy.Data[key]
	if text == "" || len(c.policy.Data) != 1 {
		t.Fatalf("the ConfigMap has %v, want a policy as its only key %q", c.policy.Data, key)
	}
	i = slices.IndexFunc(c.container().VolumeMounts, func(m corev1.VolumeMount) bool {
		return m.MountPath == path.Clean(dir) && m.ReadOnly && m.SubPath == ""
	})
	if i < 0 {
		t.Fatalf("the container has the mounts %s, want a read-only one at %s without a subPath", shown(c.container().VolumeMounts), path.Clean(dir))
	}
	mounted := c.container().VolumeMounts[i].Name
	if !slices.ContainsFunc(c.pod().Volumes, func(v corev1.Volume) bool {
		return v.Name == mounted && v.ConfigMap != nil && v.ConfigMap.Name == c.policy.Name
	}) {
		t.Errorf("the pod has the volumes %s, want %s with the ConfigMap %s", shown(c.pod().Volumes), mounted, c.policy.Name)
	}
	file := filepath.Join(t.TempDir(), key)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatalf("WriteFile: %v", err)
	}
	check := exec.Command("go", "run", "./cmd/larder", "serve", "--check", "--policy-file", file)
	check.Dir = root
	if out, err := check.CombinedOutput(); err != nil {
		t.Errorf("larder serve --check: %v, want no error\n%s", err, out)
	}
}

func TestNetworkIsClosedButForTheseDoors(t *testing.T) {
	c := render(t)
	spec := c.network.Spec
	if !slices.Equal(spec.PolicyTypes, []networkingv1.PolicyType{"Ingress", "Egress"}) {
		t.Fatalf("the policy types are %v, want Ingress and Egress: a direction that is not named is open", spec.PolicyTypes)
	}
	var doors []string
	for _, rule := range spec.Ingress {
		if len(rule.From) != 1 {
			t.Fatalf("an ingress rule names %d sources, want 1", len(rule.From))
		}
		from := "this namespace"
		if namespace := rule.From[0].NamespaceSelector; namespace != nil {
			from = namespace.MatchLabels[corev1.LabelMetadataName]
		}
		doors = append(doors, "from "+from+portList(rule.Ports))
	}
	for _, rule := range spec.Egress {
		doors = append(doors, "to"+portList(rule.Ports))
	}
	want := []string{
		"from this namespace TCP/" + strconv.Itoa(int(containerPort(t, c, "grpc"))),
		"from monitoring TCP/" + strconv.Itoa(int(containerPort(t, c, "admin"))),
		"to TCP/6379 TCP/26379",
		"to UDP/53 TCP/53",
	}
	if !slices.Equal(doors, want) {
		t.Errorf("doors are %q, want %q", doors, want)
	}
}

func portList(ports []networkingv1.NetworkPolicyPort) string {
	var list strings.Builder
	for _, port := range ports {
		protocol := corev1.ProtocolTCP
		if port.Protocol != nil {
			protocol = *port.Protocol
		}
		list.WriteString(" " + string(protocol) + "/" + port.Port.String())
	}
	return list.String()
}

func containerPort(t *testing.T, c cluster, name string) int32 {
	t.Helper()
	for _, port := range c.container().Ports {
		if port.Name == name {
			return port.ContainerPort
		}
	}
	t.Fatalf("the container has the ports %s, want one named %q", shown(c.container().Ports), name)
	return 0
}

func followsMemoryLimit(env []corev1.EnvVar) bool {
	return slices.ContainsFunc(env, func(e corev1.EnvVar) bool {
		return e.Name == "GOMEMLIMIT" && e.ValueFrom != nil && e.ValueFrom.ResourceFieldRef != nil &&
			e.ValueFrom.ResourceFieldRef.Resource == "limits.memory"
	})
}

func duration(t *testing.T, text string) time.Duration {
	t.Helper()
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatalf("ParseDuration: %v", err)
	}
	return d
}
