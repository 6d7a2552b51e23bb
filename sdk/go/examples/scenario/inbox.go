package main

import (
	"io"
	"log"
	"net"
	"net/http"
	"sync"

	tollway "github.com/tollway/tollway/sdk/go"
)

// inbox is a receiver on a free port, and what it got.
type inbox struct {
	url string

	mu     sync.Mutex
	secret string
	header http.Header
	body   []byte
	events []*tollway.WebhookEvent
}

func receive() *inbox {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	received := &inbox{url: "http://" + listener.Addr().String() + "/hook"}
	go func() { log.Fatal(http.Serve(listener, received)) }()
	return received
}

func (i *inbox) trust(secret string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.secret = secret
}

// ServeHTTP keeps what is verified, and answers 401 to anything else.
func (i *inbox) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	body, err := io.ReadAll(request.Body)
	if err != nil {
		return
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	event, err := tollway.VerifyWebhook(i.secret, request.Header, body)
	if err != nil {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	i.header, i.body, i.events = request.Header, body, append(i.events, event)
	w.WriteHeader(http.StatusNoContent)
}

func (i *inbox) first(subject string) *tollway.WebhookEvent {
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, event := range i.events {
		if event.Type == subject {
			return event
		}
	}
	return nil
}

// forge tells whether the last message is refused under another signature.
func (i *inbox) forge() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	header := i.header.Clone()
	header.Set("webhook-signature", "v1,Zm9yZ2Vk")
	_, err := tollway.VerifyWebhook(i.secret, header, i.body)
	return err != nil
}
