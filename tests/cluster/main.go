// Kubebox is a one-node Kubernetes in one file: etcd, the parts of the control plane, the node's kubelet and
// kube-proxy, and kubectl, each by its name as the first argument: "kubebox kubelet --config kubelet.yaml".
//
// Kubernetes publishes container images and large downloads of these programs, but the Go modules that they are made
// of are enough. One program instead of seven links the libraries that they share once: 145 MB instead of 600.
package main

import (
	"context"
	"fmt"
	"os"
	"sort"
	"strings"

	// The zones that a CronJob may name, on a machine that has no zone files.
	_ "time/tzdata"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/server/v3/etcdmain"
	// What the programs' own main packages load for its effect.
	_ "k8s.io/client-go/plugin/pkg/client/auth"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
	kubectl "k8s.io/kubectl/pkg/cmd"
	kubectlutil "k8s.io/kubectl/pkg/cmd/util"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllers "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
)

var programs = map[string]func(){
	"etcd":                    func() { etcdmain.Main(os.Args) },
	"kube-apiserver":          func() { serve(apiserver.NewAPIServerCommand()) },
	"kube-controller-manager": func() { serve(controllers.NewControllerManagerCommand()) },
	"kube-proxy":              func() { serve(proxy.NewProxyCommand()) },
	"kube-scheduler":          func() { serve(scheduler.NewSchedulerCommand()) },
	"kubectl":                 func() { ask(kubectl.NewDefaultKubectlCommand()) },
	"kubelet":                 func() { serve(kubelet.NewKubeletCommand(context.Background())) },
}

func main() {
	if len(os.Args) > 1 {
		if run, known := programs[os.Args[1]]; known {
			os.Args = os.Args[1:]
			run()
			return
		}
	}
	names := make([]string, 0, len(programs))
	for name := range programs {
		names = append(names, name)
	}
	sort.Strings(names)
	fmt.Fprintln(os.Stderr, "use: kubebox "+strings.Join(names, "|")+" ...")
	os.Exit(2)
}

// serve runs a part of the cluster as its own main package does.
func serve(command *cobra.Command) {
	os.Exit(cli.Run(command))
}

// ask runs kubectl, which words its errors by itself.
func ask(command *cobra.Command) {
	if err := cli.RunNoErrOutput(command); err != nil {
		kubectlutil.CheckErr(err)
	}
}
