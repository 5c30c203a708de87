package main

import "github.com/spf13/cobra"

func newDevice(o *options) *cobra.Command {
	cmd := &cobra.Command{Use: "device", Short: "List devices, let them in, revoke them, replace them"}
	h := o.host()
	cmd.AddCommand(newDeviceList(o), h.Revoke(), h.Replace(), h.Accept(), h.Approve(), h.Deny(), h.Reopen())
	return cmd
}

func newDeviceList(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the devices and those that wait for approval",
		Long:  "List the devices and those that wait for approval. The same as: fleet-server kubectl get devices,enrollmentrequests",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.kubectl(cmd, "get", "devices,enrollmentrequests", "-o", "wide")
		},
	}
}
