package s3

import (
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
)

// movingConn is a connection that is given up when for a while nothing moves on
// it in either direction: while a body is sent nothing is read, and the other
// way round.
type movingConn struct {
	net.Conn
	stall time.Duration
}

func (c *movingConn) Read(p []byte) (int, error) {
	if err := c.moved(); err != nil {
		return 0, err
	}
	n, err := c.Conn.Read(p)
	return n, c.stalled(err)
}

func (c *movingConn) Write(p []byte) (int, error) {
	if err := c.moved(); err != nil {
		return 0, err
	}
	n, err := c.Conn.Write(p)
	return n, c.stalled(err)
}

func (c *movingConn) moved() error { return c.SetDeadline(time.Now().Add(c.stall)) }

func (c *movingConn) stalled(err error) error {
	if ne, ok := err.(net.Error); ok && ne.Timeout() {
		return fmt.Errorf("nothing has moved for %v: %w", c.stall, err)
	}
	return err
}

// client looks at answers before the SDK does.
type client struct {
	inner aws.HTTPClient
	b     *Bucket
}

// strangerError says that an answer is not one of S3.
type strangerError struct {
	status int
	what   string
}

func (e *strangerError) Error() string { return e.what }

// Do makes one request. What answers with a web page, or sends us elsewhere, is
// no S3 server: a proxy that wants a login, a console's port, a wrong host.
func (c *client) Do(r *http.Request) (*http.Response, error) {
	c.b.requests.Add(1)
	resp, err := c.inner.Do(r)
	if err != nil {
		return nil, err
	}
	stranger := ""
	kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	to := resp.Header.Get("Location")
	switch {
	// S3 redirects to a region without saying where to; the SDK fills that in.
	case resp.StatusCode/100 == 3 && to != "" && !strings.Contains(to, "badhttpredirectlocation") && resp.Header.Get("X-Amz-Bucket-Region") == "":
		stranger = fmt.Sprintf("%s redirects to %s", r.URL.Host, to)
	case kind == "text/html":
		page, _ := io.ReadAll(io.LimitReader(resp.Body, 4096)) // as much as there is
		stranger = fmt.Sprintf("%s answers with a web page%s (%s)", r.URL.Host, title(string(page)), resp.Status)
	default:
		return resp, nil
	}
	resp.Body.Close()
	return nil, &strangerError{resp.StatusCode, stranger}
}

// title is the title of a web page, to be shown.
func title(page string) string {
	low := strings.ToLower(page)
	from := strings.Index(low, "<title>")
	to := strings.Index(low, "</title>")
	if from < 0 || to < from || len(low) != len(page) {
		return ""
	}
	return fmt.Sprintf(" %.80q", strings.TrimSpace(page[from+len("<title>"):to]))
}
