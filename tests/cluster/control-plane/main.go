// The control plane of the test cluster: etcd, kube-apiserver, kube-controller-manager and kubectl.
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"          // The log format "json".
	_ "k8s.io/component-base/metrics/prometheus/clientgo" // Metrics of the clients inside.
	_ "k8s.io/component-base/metrics/prometheus/version"  // The metric with the version.
	kubectl "k8s.io/kubectl/pkg/cmd"
	"k8s.io/kubectl/pkg/cmd/util"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllers "k8s.io/kubernetes/cmd/kube-controller-manager/app"

	"tidings.dev/tests/cluster/multicall"
)

func main() {
	multicall.Programs{
		"etcd":                    func() { etcdmain.Main(os.Args) },
		"kube-apiserver":          multicall.Component(apiserver.NewAPIServerCommand),
		"kube-controller-manager": multicall.Component(controllers.NewControllerManagerCommand),
		"kubectl":                 func() { util.CheckErr(cli.RunNoErrOutput(kubectl.NewDefaultKubectlCommand())) },
	}.Run()
}
