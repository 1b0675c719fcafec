// What a cluster with nodes needs beside the control plane: kube-scheduler, kubelet and kube-proxy.
package main

import (
	"context"

	"github.com/spf13/cobra"
	_ "k8s.io/component-base/logs/json/register"          // The log format "json".
	_ "k8s.io/component-base/metrics/prometheus/clientgo" // Metrics of the clients inside.
	_ "k8s.io/component-base/metrics/prometheus/version"  // The metric with the version.
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"

	"tidings.dev/tests/cluster/multicall"
)

func main() {
	multicall.Programs{
		"kube-scheduler": multicall.Component(func() *cobra.Command { return scheduler.NewSchedulerCommand() }),
		"kubelet": multicall.Component(func() *cobra.Command {
			return kubelet.NewKubeletCommand(context.Background())
		}),
		"kube-proxy": multicall.Component(proxy.NewProxyCommand),
	}.Run()
}
