// A receiver of webhooks in Go, with the standard library alone.
//
//	WEBHOOK_SECRET=whsec_… PORT=3000 go run receiver.go
package main

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	tolerance    = 5 * time.Minute
	bodyBytesMax = 1 << 20
)

type event struct {
	Type            string `json:"type"`
	ResourceID      string `json:"resource_id"`
	ResourceVersion int64  `json:"resource_version,string"`
}

type receiver struct {
	key []byte

	// In production both are tables of your database, written in the transaction that does the work.
	mu       sync.Mutex
	seen     map[string]bool
	versions map[string]int64
}

// verified tells whether the sender knows the secret and sent this now. The body is the bytes as they came.
func (r *receiver) verified(id, timestamp, signatures string, body []byte) bool {
	seconds, err := strconv.ParseInt(timestamp, 10, 64)
	if err != nil || time.Since(time.Unix(seconds, 0)).Abs() > tolerance {
		return false
	}
	mac := hmac.New(sha256.New, r.key)
	fmt.Fprintf(mac, "%s.%s.", id, timestamp)
	mac.Write(body)
	expected := []byte("v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	// Several signatures stand in the header while a secret is rotated.
	for _, signature := range strings.Split(signatures, " ") {
		if hmac.Equal(expected, []byte(signature)) {
			return true
		}
	}
	return false
}

// handle takes each message once, and never replaces a newer state by an older one.
func (r *receiver) handle(id string, e event) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.seen[id] {
		return "duplicate"
	}
	r.seen[id] = true
	if e.ResourceVersion <= r.versions[e.ResourceID] {
		return "stale"
	}
	r.versions[e.ResourceID] = e.ResourceVersion
	return "handled"
}

// ServeHTTP answers at once: 204 when it is stored, 401 when it is not from the sender.
func (r *receiver) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, request.Body, bodyBytesMax))
	if err != nil {
		w.WriteHeader(http.StatusRequestEntityTooLarge)
		return
	}
	id := request.Header.Get("webhook-id")
	timestamp, signatures := request.Header.Get("webhook-timestamp"), request.Header.Get("webhook-signature")
	if !r.verified(id, timestamp, signatures, body) {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	var e event
	if err := json.Unmarshal(body, &e); err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	fmt.Println(r.handle(id, e), id, e.Type)
	w.WriteHeader(http.StatusNoContent)
}

func main() {
	secret, found := strings.CutPrefix(os.Getenv("WEBHOOK_SECRET"), "whsec_")
	key, err := base64.StdEncoding.DecodeString(secret)
	if err != nil || !found {
		log.Fatal("WEBHOOK_SECRET must be whsec_… as CreateEndpoint answered it")
	}
	port := os.Getenv("PORT")
	if port == "" {
		port = "3000"
	}
	listener, err := net.Listen("tcp", "127.0.0.1:"+port)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("listening", listener.Addr().(*net.TCPAddr).Port)
	server := &http.Server{
		Handler:     &receiver{key: key, seen: map[string]bool{}, versions: map[string]int64{}},
		ReadTimeout: 10 * time.Second,
	}
	log.Fatal(server.Serve(listener))
}
