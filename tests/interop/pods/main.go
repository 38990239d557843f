// Command pods serves the kubelet's pods API (KEP-4188, service v1alpha1.Pods) from the code that Kubernetes generates for it, with the
// pods of a recorded answer of /pods, marshalled by k8s.io/api. The order of what it says is the kubelet's: ADDED for each pod by uid,
// INITIAL_SYNC_COMPLETE, then what changes; of a deleted pod name, namespace and uid alone.
//
//	pods -socket PATH -pods FILE [-initializing]
//	pods -frames FILE -pods FILE [POD…]
//
// The second writes what a watch of these pods and of those in further files (a v1.Pod in JSON each) begins with, framed as gRPC does.
// Lines of its input are commands, each answered with a line: `initializing yes|no`, `put FILE` (a v1.Pod in JSON), `delete UID`, `drop`
// (every watch ends, as of a client that is too slow).
package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"net"
	"os"
	"sort"
	"strings"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	api "k8s.io/kubelet/pkg/apis/pods/v1alpha1"
)

type server struct {
	api.UnimplementedPodsServer

	lock         sync.Mutex
	pods         map[string]*v1.Pod
	watches      map[chan *api.WatchPodsEvent]struct{}
	initializing bool
}

// begin has the pods as they are and, of a watch, the channel of what changes from now on.
func (s *server) begin(watch bool) ([][]byte, chan *api.WatchPodsEvent, error) {
	s.lock.Lock()
	defer s.lock.Unlock()
	if s.initializing {
		return nil, nil, status.Error(codes.FailedPrecondition, "Kubelet is initializing")
	}
	var uids []string
	for uid := range s.pods {
		uids = append(uids, uid)
	}
	sort.Strings(uids)
	var pods [][]byte
	for _, uid := range uids {
		bytes, err := s.pods[uid].Marshal()
		if err != nil {
			return nil, nil, status.Error(codes.Internal, err.Error())
		}
		pods = append(pods, bytes)
	}
	if !watch {
		return pods, nil, nil
	}
	changes := make(chan *api.WatchPodsEvent, 100)
	s.watches[changes] = struct{}{}
	return pods, changes, nil
}

func (s *server) ListPods(context.Context, *api.ListPodsRequest) (*api.ListPodsResponse, error) {
	pods, _, err := s.begin(false)
	return &api.ListPodsResponse{Pods: pods}, err
}

func (s *server) WatchPods(_ *api.WatchPodsRequest, stream grpc.ServerStreamingServer[api.WatchPodsEvent]) error {
	pods, changes, err := s.begin(true)
	if err != nil {
		return err
	}
	defer func() {
		s.lock.Lock()
		delete(s.watches, changes)
		s.lock.Unlock()
	}()
	for _, pod := range pods {
		if err := stream.Send(&api.WatchPodsEvent{Type: api.EventType_ADDED, Pod: pod}); err != nil {
			return err
		}
	}
	if err := stream.Send(&api.WatchPodsEvent{Type: api.EventType_INITIAL_SYNC_COMPLETE}); err != nil {
		return err
	}
	for {
		select {
		case <-stream.Context().Done():
			return stream.Context().Err()
		case event, open := <-changes:
			if !open {
				return status.Error(codes.ResourceExhausted, "watch client channel closed")
			}
			if err := stream.Send(event); err != nil {
				return err
			}
		}
	}
}

// tell sends an event to every watch.
func (s *server) tell(kind api.EventType, pod *v1.Pod) error {
	bytes, err := pod.Marshal()
	for watch := range s.watches {
		watch <- &api.WatchPodsEvent{Type: kind, Pod: bytes}
	}
	return err
}

func (s *server) put(file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	pod := new(v1.Pod)
	if err := json.Unmarshal(text, pod); err != nil {
		return err
	}
	kind := api.EventType_ADDED
	if s.pods[string(pod.UID)] != nil {
		kind = api.EventType_MODIFIED
	}
	s.pods[string(pod.UID)] = pod
	return s.tell(kind, pod)
}

func (s *server) command(line string) error {
	s.lock.Lock()
	defer s.lock.Unlock()
	name, rest, _ := strings.Cut(line, " ")
	switch name {
	case "initializing":
		s.initializing = rest == "yes"
	case "put":
		return s.put(rest)
	case "delete":
		pod := s.pods[rest]
		if pod == nil {
			return fmt.Errorf("no pod %s", rest)
		}
		delete(s.pods, rest)
		meta := metav1.ObjectMeta{Name: pod.Name, Namespace: pod.Namespace, UID: pod.UID}
		return s.tell(api.EventType_DELETED, &v1.Pod{ObjectMeta: meta})
	case "drop":
		for watch := range s.watches {
			close(watch)
			delete(s.watches, watch)
		}
	default:
		return fmt.Errorf("no command %s", name)
	}
	return nil
}

// write has a file with the messages of a watch up to INITIAL_SYNC_COMPLETE.
func (s *server) write(file string) error {
	pods, _, err := s.begin(false)
	if err != nil {
		return err
	}
	var events []*api.WatchPodsEvent
	for _, pod := range pods {
		events = append(events, &api.WatchPodsEvent{Type: api.EventType_ADDED, Pod: pod})
	}
	events = append(events, &api.WatchPodsEvent{Type: api.EventType_INITIAL_SYNC_COMPLETE})
	var out []byte
	for _, event := range events {
		message, err := proto.Marshal(event)
		if err != nil {
			return err
		}
		out = append(binary.BigEndian.AppendUint32(append(out, 0), uint32(len(message))), message...)
	}
	return os.WriteFile(file, out, 0o644)
}

func main() {
	socket := flag.String("socket", "", "where it listens")
	file := flag.String("pods", "", "a kubelet's answer of /pods")
	frames := flag.String("frames", "", "where to write a watch's beginning to, in place of listening")
	initializing := flag.Bool("initializing", false, "refuse everything at first")
	flag.Parse()
	text, err := os.ReadFile(*file)
	if err != nil {
		log.Fatal(err)
	}
	var list v1.PodList
	if err := json.Unmarshal(text, &list); err != nil {
		log.Fatal(err)
	}
	s := &server{pods: map[string]*v1.Pod{}, watches: map[chan *api.WatchPodsEvent]struct{}{}, initializing: *initializing}
	for _, pod := range list.Items {
		s.pods[string(pod.UID)] = pod.DeepCopy()
	}
	for _, file := range flag.Args() {
		if err := s.put(file); err != nil {
			log.Fatal(err)
		}
	}
	if *frames != "" {
		if err := s.write(*frames); err != nil {
			log.Fatal(err)
		}
		return
	}
	// As the kubelet does: what a killed one left is in the way.
	_ = os.Remove(*socket)
	listener, err := net.Listen("unix", *socket)
	if err != nil {
		log.Fatal(err)
	}
	served := grpc.NewServer()
	api.RegisterPodsServer(served, s)
	go func() { log.Fatal(served.Serve(listener)) }()
	fmt.Printf("listening with %d pods\n", len(s.pods))
	commands := bufio.NewScanner(os.Stdin)
	for commands.Scan() {
		if err := s.command(commands.Text()); err != nil {
			fmt.Println("error:", err)
		} else {
			fmt.Println("ok")
		}
	}
}
