package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
)

// Client calls the verbs of a running node. It is safe for concurrent use, and
// holds no connection between calls.
type Client struct {
	data string
	http *http.Client
}

// Dial makes a client for the node whose data folder is dataDir. It returns a
// [*NotRunningError] when no node answers there, and another error when the
// socket belongs to another user.
func Dial(dataDir string) (*Client, error) {
	dataDir, err := filepath.Abs(dataDir)
	if err != nil {
		return nil, fmt.Errorf("find data folder: %w", err)
	}
	c := &Client{data: dataDir}
	c.http = &http.Client{Transport: &http.Transport{
		DialContext: func(context.Context, string, string) (net.Conn, error) { return connect(dataDir) },
		// A connection that the node closed meanwhile would fail a call that cannot
		// be sent again; a new one takes microseconds.
		DisableKeepAlives:  true,
		DisableCompression: true,
	}}
	conn, err := connect(dataDir)
	if err != nil {
		return nil, c.explain(err)
	}
	if err := conn.Close(); err != nil {
		return nil, fmt.Errorf("close probe: %w", err)
	}
	return c, nil
}

func (c *Client) explain(err error) error {
	if absent(err) {
		return &NotRunningError{Data: c.data}
	}
	return err
}

// Call asks the node for a verb and waits for its answer; tell, which may be
// nil, gets the events meanwhile, in order. When ctx ends, the node is told by
// the connection's end. A failure of the node is an [*Error]; a node that ended
// before it answered is one with [CodeClosed].
func Call[Req, Rep any](ctx context.Context, c *Client, name string, req Req, tell func(Event)) (Rep, error) {
	var rep Rep
	raw, err := c.do(ctx, name, req, func(l line) error {
		if l.Event != nil && tell != nil {
			tell(*l.Event)
		}
		return nil
	})
	if err != nil {
		return rep, err
	}
	if err := json.Unmarshal(raw, &rep); err != nil {
		return rep, fmt.Errorf("read answer of %s: %w", name, err)
	}
	return rep, nil
}

// Stream asks the node for a verb that gives a stream, and calls each with its
// items, in order, until it ends. An error of each ends the stream and is
// returned as it is. Otherwise as [Call].
func Stream[Req, Item any](ctx context.Context, c *Client, name string, req Req, each func(Item) error) error {
	_, err := c.do(ctx, name, req, func(l line) error {
		if l.Item == nil {
			return nil
		}
		var item Item
		if err := json.Unmarshal(l.Item, &item); err != nil {
			return fmt.Errorf("read answer of %s: %w", name, err)
		}
		return each(item)
	})
	return err
}

// do sends a request and reads its answer; each gets the lines before the last.
func (c *Client) do(ctx context.Context, name string, req any, each func(line) error) (json.RawMessage, error) {
	body, err := json.Marshal(req)
	if err != nil {
		return nil, fmt.Errorf("write request: %w", err)
	}
	if len(body) > MaxRequest {
		return nil, &Error{Code: CodeTooLarge, Message: fmt.Sprintf("the request is above %d bytes", MaxRequest)}
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://fairlead/v1/"+name, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("write request: %w", err)
	}
	r.Header.Set("Content-Type", "application/json")
	resp, err := c.http.Do(r)
	if err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if absent(err) {
			return nil, c.explain(err)
		}
		return nil, c.closed(err)
	}
	defer resp.Body.Close()
	in := newReader(resp.Body)
	for {
		l, err := in.next()
		switch {
		case err != nil && ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case errors.Is(err, errBroken):
			return nil, c.closed(err)
		case err != nil:
			return nil, err
		case l.Error != nil:
			return nil, l.Error
		case l.Result != nil:
			return l.Result, nil
		}
		if err := each(l); err != nil {
			return nil, err
		}
	}
}

func (c *Client) closed(err error) error {
	return &Error{
		Code:    CodeClosed,
		Message: fmt.Sprintf("fairlead ended before it answered: %v", err),
		Hint:    "its log is " + filepath.Join(c.data, "logs", "fairlead.log"),
	}
}
