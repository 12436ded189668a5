package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"fairlead/internal/control"
)

// write puts a file into the door's folder.
func (w *doorway) write(name, text string) error {
	return os.WriteFile(filepath.Join(w.dir, name), []byte(text), 0o600)
}

func (w *doorway) run(b *bench, name string, args ...string) (err error) {
	if w.process, err = b.spawn(name, args...); err != nil {
		return err
	}
	w.pids = func() []int { return family(w.cmd.Process.Pid) }
	w.end = w.stop
	if err := waitTCP(w.plain); err != nil {
		return fmt.Errorf("%w: %s", err, w.log.String())
	}
	return nil
}

func configureNginx(w *doorway, routes int, more []string) error {
	var locations strings.Builder
	for i := range routes {
		fmt.Fprintf(&locations, "\t\tlocation /r%d/ { proxy_pass http://backend; }\n", i)
	}
	for _, name := range more {
		fmt.Fprintf(&locations, "\t\tlocation /%s/ { proxy_pass http://backend; }\n", name)
	}
	return w.write("nginx.conf", fmt.Sprintf(`daemon off; worker_processes 2; pid %[1]s/pid; error_log stderr error; user root;
events { worker_connections 16384; }
http {
	access_log off; keepalive_requests 1000000000; keepalive_timeout 600s;
	client_body_temp_path %[1]s; proxy_temp_path %[1]s; fastcgi_temp_path %[1]s; uwsgi_temp_path %[1]s; scgi_temp_path %[1]s;
	proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $host; proxy_set_header X-Forwarded-For $remote_addr;
	upstream backend { server %[2]s; keepalive 512; keepalive_requests 1000000000; }
	ssl_certificate %[1]s/cert.pem; ssl_certificate_key %[1]s/key.pem; ssl_protocols TLSv1.2 TLSv1.3;
	server {
		listen %[3]s backlog=4096;
		listen %[4]s ssl backlog=4096;
%[5]s		location /ws/ { proxy_pass http://%[6]s; proxy_set_header Connection Upgrade; proxy_set_header Upgrade $http_upgrade; proxy_read_timeout 600s; }
	}
}`, w.dir, w.backend, w.plain, w.tls, locations.String(), w.ws))
}

func startNginx(b *bench, w *doorway) error {
	return w.run(b, "nginx", "-c", filepath.Join(w.dir, "nginx.conf"), "-e", "stderr")
}

func reloadNginx(_ *bench, w *doorway) error { return w.cmd.Process.Signal(syscall.SIGHUP) }

func configureHAProxy(w *doorway, routes int, more []string) error {
	var paths strings.Builder
	for i := range routes {
		fmt.Fprintf(&paths, "/r%d/ backend\n", i)
	}
	for _, name := range more {
		fmt.Fprintf(&paths, "/%s/ backend\n", name)
	}
	if err := w.write("paths.map", paths.String()); err != nil {
		return err
	}
	return w.write("haproxy.cfg", fmt.Sprintf(`global
	nbthread 2
	maxconn 8000
	tune.ssl.default-dh-param 2048
defaults
	mode http
	timeout connect 5s
	timeout client 600s
	timeout server 600s
	timeout http-keep-alive 600s
	timeout tunnel 600s
	option forwardfor
frontend door
	bind %[2]s backlog 4096
	bind %[3]s ssl crt %[1]s/both.pem alpn http/1.1 backlog 4096
	use_backend ws if { path_beg /ws/ }
	use_backend %%[path,map_beg(%[1]s/paths.map,none)]
backend backend
	http-reuse always
	server s %[4]s
backend ws
	server s %[5]s
backend none
	http-request return status 404
`, w.dir, w.plain, w.tls, w.backend, w.ws))
}

func startHAProxy(b *bench, w *doorway) error {
	return w.run(b, "haproxy", "-W", "-f", filepath.Join(w.dir, "haproxy.cfg"))
}

func reloadHAProxy(_ *bench, w *doorway) error { return w.cmd.Process.Signal(syscall.SIGUSR2) }

func configureCaddy(w *doorway, routes int, more []string) error {
	var handles strings.Builder
	for i := range routes {
		fmt.Fprintf(&handles, "\thandle /r%d/* {\n\t\treverse_proxy %s\n\t}\n", i, w.backend)
	}
	for _, name := range more {
		fmt.Fprintf(&handles, "\thandle /%s/* {\n\t\treverse_proxy %s\n\t}\n", name, w.backend)
	}
	return w.write("Caddyfile", fmt.Sprintf(`{
	admin %[6]s
	auto_https off
	log {
		level ERROR
	}
}
(routes) {
	handle /ws/* {
		reverse_proxy %[1]s
	}
%[2]s}
http://%[3]s {
	import routes
}
https://%[4]s {
	tls %[5]s/cert.pem %[5]s/key.pem
	import routes
}
`, w.ws, handles.String(), w.plain, w.tls, w.dir, w.admin))
}

func startCaddy(b *bench, w *doorway) error {
	return w.run(b, "env", "HOME="+w.dir, "caddy", "run", "--config", filepath.Join(w.dir, "Caddyfile"), "--adapter", "caddyfile")
}

func reloadCaddy(b *bench, w *doorway) error {
	file, err := os.Open(filepath.Join(w.dir, "Caddyfile"))
	if err != nil {
		return err
	}
	defer file.Close()
	req, err := http.NewRequestWithContext(b.ctx, http.MethodPost, "http://"+w.admin+"/load", file)
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "text/caddyfile")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		body, err := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
		return errors.Join(fmt.Errorf("caddy's load is answered %s: %s", resp.Status, body), err)
	}
	return nil
}

func configureFairlead(w *doorway, routes int, more []string) error {
	var file strings.Builder
	fmt.Fprintf(&file, `system: doors
gateway:
  listen: [{address: %q, tls: false}, {address: %q}]
  tls: {certificate: cert.pem, key: key.pem}
  compress: false
  limits: {connections: 10000}
services:
  backend: {external: [%q]}
  ws: {external: [%q]}
routes:
  /ws/: {service: ws}
`, w.plain, w.tls, w.backend, w.ws)
	for i := range routes {
		fmt.Fprintf(&file, "  /r%d/: {service: backend}\n", i)
	}
	for _, name := range more {
		fmt.Fprintf(&file, "  /%s/: {service: backend}\n", name)
	}
	return w.write("fairlead.yaml", file.String())
}

func startFairlead(b *bench, w *doorway) error { return w.run(b, b.fairlead, "up", w.dir) }

func reloadFairlead(b *bench, w *doorway) error {
	node, err := control.Dial(filepath.Join(w.dir, ".fairlead"))
	if err != nil {
		return err
	}
	_, err = control.Call[control.ReloadRequest, control.ReloadReply](b.ctx, node, control.VerbReload, control.ReloadRequest{}, nil)
	return err
}
