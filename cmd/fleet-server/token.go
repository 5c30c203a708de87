package main

import "github.com/spf13/cobra"

func newToken(o *options) *cobra.Command {
	cmd := &cobra.Command{Use: "token", Short: "Create, list and revoke the tokens that devices enroll with"}
	cmd.AddCommand(o.host().CreateToken(), newTokenList(o), newTokenRevoke(o))
	return cmd
}

func newTokenList(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the enrollment tokens",
		Long:  "List the enrollment tokens. The same as: fleet-server kubectl get enrollmenttokens",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return o.kubectl(cmd, "get", "enrollmenttokens") },
	}
}

func newTokenRevoke(o *options) *cobra.Command {
	return &cobra.Command{
		Use:     "revoke ID...",
		Short:   "Remove enrollment tokens: nobody can enroll with them any more",
		Long:    "Remove enrollment tokens: nobody can enroll with them any more. Devices that did stay.",
		Example: "  fleet-server token revoke hbq3x7ka",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.kubectl(cmd, append([]string{"delete", "enrollmenttokens"}, args...)...)
		},
	}
}
