package gating

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"time"

	"connectrpc.com/connect"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/api"
	"github.com/tidegate/tidegate/api/tidegatev1/tidegatev1connect"
	"github.com/tidegate/tidegate/internal/pki"
)

// Limits of the API.
const (
	requestBytesMax   = 4 << 20 // a report of every stream of a big node
	headerTimeout     = 5 * time.Second
	shutdownTimeout   = 2 * time.Second
	headerBytesMax    = 16 << 10
	watchersPerStream = 250 // HTTP/2 streams of one connection
)

// callers says who may call what; a procedure that is missing may be called by nobody.
var callers = map[string][]tidegate.Role{
	tidegatev1connect.NodeServiceRegisterProcedure:         {tidegate.RoleAgent, tidegate.RoleStandby, tidegate.RoleRoute},
	tidegatev1connect.NodeServiceWatchProcedure:            {tidegate.RoleAgent, tidegate.RoleStandby, tidegate.RoleRoute},
	tidegatev1connect.NodeServiceAcquireEpochProcedure:     {tidegate.RoleAgent},
	tidegatev1connect.NodeServiceReadEpochProcedure:        {tidegate.RoleAgent, tidegate.RoleStandby},
	tidegatev1connect.NodeServiceRecordGateProcedure:       {tidegate.RoleAgent},
	tidegatev1connect.NodeServiceExitLimboProcedure:        {tidegate.RoleAgent},
	tidegatev1connect.NodeServiceReportAgentProcedure:      {tidegate.RoleAgent},
	tidegatev1connect.NodeServiceReportStandbyProcedure:    {tidegate.RoleStandby},
	tidegatev1connect.NodeServiceReportRouteProcedure:      {tidegate.RoleRoute},
	tidegatev1connect.NodeServiceReportQuarantineProcedure: {tidegate.RoleAgent, tidegate.RoleStandby},
	tidegatev1connect.NodeServiceRenewLeaseProcedure:       {tidegate.RoleAgent},
	tidegatev1connect.NodeServiceReleaseLeaseProcedure:     {tidegate.RoleAgent},
	tidegatev1connect.NodeServiceHandOverProcedure:         {tidegate.RoleAgent},

	tidegatev1connect.NodeServiceDeclareGenerationProcedure:    {tidegate.RoleAgent},
	tidegatev1connect.OperatorServiceRegenerateStreamProcedure: writers,
	tidegatev1connect.OperatorServiceAcceptGapProcedure:        writers,
	tidegatev1connect.OperatorServiceListGapsProcedure:         readers,

	tidegatev1connect.OperatorServiceStatusProcedure:       readers,
	tidegatev1connect.OperatorServiceListStreamsProcedure:  readers,
	tidegatev1connect.OperatorServiceShowPlanProcedure:     readers,
	tidegatev1connect.OperatorServiceListPlansProcedure:    readers,
	tidegatev1connect.OperatorServiceDoctorProcedure:       readers,
	tidegatev1connect.OperatorServiceAddServiceProcedure:   writers,
	tidegatev1connect.OperatorServiceAddStreamProcedure:    writers,
	tidegatev1connect.OperatorServicePauseStreamProcedure:  writers,
	tidegatev1connect.OperatorServiceResumeStreamProcedure: writers,
	tidegatev1connect.OperatorServiceRemoveStreamProcedure: writers,
	tidegatev1connect.OperatorServiceSetModeProcedure:      writers,
	tidegatev1connect.OperatorServiceFreezeProcedure:       writers,
	tidegatev1connect.OperatorServiceRebuildProcedure:      writers,

	tidegatev1connect.OperatorServiceGateExplainProcedure:   readers,
	tidegatev1connect.OperatorServiceListOverridesProcedure: readers,
	tidegatev1connect.OperatorServiceListAuditProcedure:     readers,

	tidegatev1connect.OperatorServiceChangeRoleProcedure:       writers,
	tidegatev1connect.OperatorServiceReconfigureProcedure:      writers,
	tidegatev1connect.OperatorServiceAbortPlanProcedure:        writers,
	tidegatev1connect.OperatorServiceOpenGateProcedure:         writers,
	tidegatev1connect.OperatorServiceArmGateProcedure:          writers,
	tidegatev1connect.OperatorServiceSetDetectorProcedure:      writers,
	tidegatev1connect.OperatorServiceRecordDrillProcedure:      {tidegate.RoleOperator, tidegate.RoleDrill},
	tidegatev1connect.OperatorServicePutOverridesProcedure:     writers,
	tidegatev1connect.OperatorServiceSetDrillScheduleProcedure: writers,
	tidegatev1connect.OperatorServiceAbortDrillProcedure:       writers,
	tidegatev1connect.OperatorServiceDrillStatusProcedure:      readers,
	tidegatev1connect.OperatorServiceTakeDrillProcedure:        {tidegate.RoleDrill},
	tidegatev1connect.OperatorServiceReportDrillProcedure:      {tidegate.RoleDrill},
	tidegatev1connect.OperatorServiceEndDrillProcedure:         {tidegate.RoleDrill},
	tidegatev1connect.OperatorServiceRevokeOverrideProcedure:   writers,
}

var (
	readers = []tidegate.Role{tidegate.RoleViewer, tidegate.RoleOperator}
	writers = []tidegate.Role{tidegate.RoleOperator}
)

type callerKey struct{}

// callerOf returns whom the peer's certificate speaks for.
func callerOf(ctx context.Context) tidegate.Identity {
	id, _ := ctx.Value(callerKey{}).(tidegate.Identity)
	return id
}

// guard is the interceptor of every call: it lets only the listed roles in and
// sends every error with its class.
type guard struct{ p parts }

func (g guard) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		if err := allowed(ctx, req.Spec().Procedure); err != nil {
			return nil, api.Error(err)
		}
		resp, err := next(ctx, req)
		if err != nil {
			g.p.noteRefusal(ctx, req.Spec().Procedure, req.Any(), err)
		}
		return resp, api.Error(err)
	}
}

func (guard) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, conn connect.StreamingHandlerConn) error {
		if err := allowed(ctx, conn.Spec().Procedure); err != nil {
			return api.Error(err)
		}
		return api.Error(next(ctx, conn))
	}
}

func (guard) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

func allowed(ctx context.Context, procedure string) error {
	id := callerOf(ctx)
	if slices.Contains(callers[procedure], id.Role) {
		return nil
	}
	return &tidegate.Error{
		Op: "call", Subject: procedure, Class: tidegate.Refused,
		Err:  fmt.Errorf("role %s of %s may not", id.Role, id.Name),
		Hint: fmt.Sprintf("use a certificate with one of the roles %v", callers[procedure]),
	}
}

// speaksFor refuses a node that names another one than its certificate does.
func speaksFor(ctx context.Context, node, site string) error {
	id := callerOf(ctx)
	if id.Name == node && (site == "" || string(id.Site) == site) {
		return nil
	}
	return &tidegate.Error{
		Op: "speak for", Subject: node, Class: tidegate.Refused,
		Err:  fmt.Errorf("the certificate is that of %s at %s", id.Name, id.Site),
		Hint: "name and site of the node's configuration must be those of its certificate",
	}
}

// server is the listener of the API and of /metrics.
type server struct {
	creds  *pki.Credentials
	listen string
	http   *http.Server
	addr   chan net.Addr // one value, once listening
}

func newServer(p parts, creds *pki.Credentials, listen string, reg prometheus.Gatherer, node tidegatev1connect.NodeServiceHandler, op tidegatev1connect.OperatorServiceHandler) *server {
	mux := http.NewServeMux()
	opts := []connect.HandlerOption{connect.WithInterceptors(guard{p}), connect.WithReadMaxBytes(requestBytesMax), connect.WithCompressMinBytes(api.CompressMin)}
	mux.Handle(tidegatev1connect.NewNodeServiceHandler(node, opts...))
	mux.Handle(tidegatev1connect.NewOperatorServiceHandler(op, opts...))
	mux.Handle("GET /metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{}))
	identify := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS == nil {
			http.Error(w, "TLS only", http.StatusForbidden)
			return
		}
		id, err := pki.PeerIdentity(*r.TLS)
		if err != nil {
			http.Error(w, err.Error(), http.StatusForbidden)
			return
		}
		mux.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), callerKey{}, id)))
	})
	return &server{
		creds: creds, listen: listen, addr: make(chan net.Addr, 1),
		http: &http.Server{
			Handler: identify, ReadHeaderTimeout: headerTimeout, MaxHeaderBytes: headerBytesMax,
			HTTP2:    &http.HTTP2Config{MaxConcurrentStreams: watchersPerStream},
			ErrorLog: slog.NewLogLogger(p.log.Handler(), slog.LevelDebug), // handshakes of strangers, connections cut: no business of an operator
		},
	}
}

// run serves until ctx ends. Streams that are open then see their context end.
func (s *server) run(ctx context.Context) error {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", s.listen)
	if err != nil {
		return &tidegate.Error{Op: "listen on", Subject: s.listen, Class: tidegate.Misuse, Err: err}
	}
	s.http.TLSConfig = s.creds.ServerTLS()
	base, stop := context.WithCancel(ctx)
	defer stop()
	s.http.BaseContext = func(net.Listener) context.Context { return base }
	s.addr <- l.Addr()
	done := make(chan error, 1)
	go func() { done <- s.http.ServeTLS(l, "", "") }() // owned by run; ends when Shutdown or Close below has been called
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	sctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
	defer cancel()
	err = s.http.Shutdown(sctx)
	if err != nil {
		err = s.http.Close()
	}
	if serr := <-done; !errors.Is(serr, http.ErrServerClosed) {
		err = errors.Join(err, serr)
	}
	return err
}
