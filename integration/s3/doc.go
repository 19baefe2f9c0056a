// Package s3 holds chunkstore/remote to real S3 servers on loopback: versitygw
// and a lying one (gofakes3), and with STEPFS_MINIO=1 MinIO too. `make servers`
// installs them (tools/servers.sh says where); a test whose server is missing
// fails and says so.
//
// Read servers_test.go first. Between client and server proxy_test.go breaks
// what breaks in the world; machines_test.go has machines of their own, network
// namespaces, and cuts their cables.
package s3
