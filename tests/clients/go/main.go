// One client in Go:  clients NAME URL
//
// Prints each event as [type, id, data]. What differs from a client's defaults is what docs/clients.md says about it.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"time"

	r3labs "github.com/r3labs/sse/v2"
	tmaxmax "github.com/tmaxmax/go-sse"
)

func print(kind, id, data string) {
	if kind == "" {
		kind = "message"
	}
	// Both tell of every event: checkpoints are for the client, not for its user.
	if kind == "tidings.position" {
		return
	}
	line, _ := json.Marshal([]string{kind, id, data})
	fmt.Println(string(line))
}

func main() {
	name, url := os.Args[1], os.Args[2]
	switch name {
	case "r3labs":
		client := r3labs.NewClient(url)
		// A complete response is the end to it, and it gives up after 15 minutes of errors: both begin again here.
		for {
			err := client.SubscribeRaw(func(event *r3labs.Event) {
				// A retry alone is told as well, and what was cut in its middle; neither has both.
				if len(event.ID) > 0 && len(event.Event)+len(event.Data) > 0 {
					print(string(event.Event), string(event.ID), string(event.Data))
				}
			})
			fmt.Fprintln(os.Stderr, "again:", err)
			time.Sleep(time.Second)
		}
	case "tmaxmax":
		request, err := http.NewRequestWithContext(context.Background(), http.MethodGet, url, http.NoBody)
		if err != nil {
			panic(err)
		}
		connection := tmaxmax.NewConnection(request)
		connection.SubscribeToAll(func(event tmaxmax.Event) {
			print(event.Type, event.LastEventID, event.Data)
		})
		panic(connection.Connect())
	default:
		panic("no such client: " + name)
	}
}
