package api

import (
	"net/http"

	"permafrost/store"
)

// statusView is GET /status.
type statusView struct {
	State          string               `json:"state" enum:"unfrozen,freezing,frozen,thawing" doc:"What the file system is doing."`
	Level          string               `json:"level" enum:"unfrozen,write,page_fault,fs,complete" doc:"Who is held: see the freeze protocol."`
	Since          stamp                `json:"since" doc:"Since when it is in this state."`
	Freeze         nullable[FreezeView] `json:"freeze" doc:"The freeze that stands or is being reached."`
	LastFreeze     nullable[FreezeView] `json:"last_freeze" doc:"The newest that ended."`
	InstanceID     string               `json:"instance_id" doc:"Changes with every start."`
	Version        string               `json:"version" doc:"Of the program."`
	Label          string               `json:"label" doc:"Of the image."`
	Generation     uint64               `json:"generation" doc:"Newest durable commit."`
	UptimeS        float64              `json:"uptime_s" doc:"Since the start of the appliance."`
	Error          string               `json:"error" doc:"Why the file system is read-only; empty when all is well."`
	Pmem           pmemView             `json:"pmem" doc:"The pmem file."`
	Space          spaceView            `json:"space" doc:"Of the image."`
	Inodes         inodeCounts          `json:"inodes" doc:"Inodes."`
	DirtyPages     uint64               `json:"dirty_pages_total" doc:"Pages stored to and not yet flushed."`
	Mappings       uint64               `json:"mappings_total" doc:"Shared mappings of attached programs. Those through the mount are not known: see mount."`
	Blocked        uint64               `json:"blocked_total" doc:"Callers held now."`
	BadBlocks      uint64               `json:"bad_blocks_total" doc:"Blocks that are bad, and never allocated again: GET /badblocks."`
	BadPending     uint64               `json:"bad_blocks_pending_total" doc:"Bad blocks that were met and are recorded after the thaw."`
	DataErrors     uint64               `json:"data_errors_total" doc:"Accesses of file data that met a bad block, since the start."`
	MetadataErrors uint64               `json:"metadata_errors_total" doc:"Damaged blocks of metadata met since the start; more than 0: the file system is read-only."`
	Scrub          scrubStatusView      `json:"scrub" doc:"The background check of all metadata."`
	PendingOrphans uint64               `json:"pending_orphans_total" doc:"Unlinked inodes whose blocks are not freed yet."`
	EventsDropped  uint64               `json:"events_dropped_total" doc:"Events nobody took in time."`
	Ledger         ledgerView           `json:"ledger" doc:"The record of events."`
	Mount          nullable[mountView]  `json:"mount" doc:"The FUSE mount; null without one."`
	MountEnded     string               `json:"mount_ended" doc:"Where it was mounted, if somebody has unmounted it since; empty otherwise. The appliance mounts again when it is restarted."`
	Attach         nullable[attachView] `json:"attach" doc:"The direct-mapping way in; null where programs cannot map files."`
	AttachRefused  string               `json:"attach_refused" doc:"Why programs cannot map files, and the way in to use instead; empty where they can."`
}

type pmemView struct {
	Path              string `json:"path" doc:"Of the pmem file."`
	SizeBytes         int64  `json:"size_bytes" doc:"Its size."`
	Domain            string `json:"domain" enum:"cpu-cache,dax,page-cache,volatile" doc:"Persistence domain, found by trying."`
	SurvivesPowerLoss bool   `json:"survives_power_loss" doc:"Whether what is durable outlives a power loss."`
	FlushInstruction  string `json:"flush_instruction" doc:"How a line is written back."`
}

type spaceView struct {
	TotalBytes uint64 `json:"total_bytes" doc:"All."`
	UsedBytes  uint64 `json:"used_bytes" doc:"In use."`
	FreeBytes  uint64 `json:"free_bytes" doc:"Free."`
}

type inodeCounts struct {
	Total  uint64 `json:"total" doc:"In the image."`
	Cached uint64 `json:"cached" doc:"In memory."`
	Dirty  uint64 `json:"dirty" doc:"With dirty pages."`
}

type ledgerView struct {
	State  string `json:"state" enum:"ok,degraded,none" doc:"degraded: events are kept in memory and written when it can."`
	Path   string `json:"path" doc:"Of the database."`
	Reason string `json:"reason" doc:"Why it is degraded."`
}

type attachView struct {
	Socket  string `json:"socket" doc:"Where programs attach."`
	Clients int    `json:"clients" doc:"Programs attached."`
}

func (s *Server) statusRoute() {
	route(s, operation{
		method: http.MethodGet, pattern: "/status", id: "status", tag: tagInspect,
		summary:     "The whole at a glance",
		description: "One consistent, cheap snapshot. It never waits for a thaw.",
		answers:     []answer{{status: 200, describe: "The state.", body: statusView{}}},
	}, s.getStatus)
}

func (s *Server) getStatus(w http.ResponseWriter, r *http.Request, _ *noParams) error {
	st := s.fs().Status()
	v := statusView{
		State: st.State, Level: st.Level.String(), Since: stamp(st.Since),
		InstanceID: st.InstanceID, Version: s.opt.Version, Label: st.Label, Generation: uint64(st.Generation),
		UptimeS: s.now().Sub(s.started).Seconds(),
		Pmem: pmemView{Path: st.Medium.Path, SizeBytes: st.Medium.SizeBytes, Domain: st.Medium.Domain,
			SurvivesPowerLoss: st.Medium.SurvivesPowerLoss, FlushInstruction: st.Medium.FlushInstruction},
		Space:      spaceView{st.Space.Total, st.Space.Used, st.Space.Free},
		Inodes:     inodeCounts{st.InodesTotal, st.InodesCached, st.InodesDirty},
		DirtyPages: st.DirtyPages, Mappings: st.Mappings, Blocked: st.Blocked, BadBlocks: st.BadBlocks,
		BadPending: st.BadBlocksPending, DataErrors: st.DataErrors, MetadataErrors: st.MetadataErrors,
		Scrub:          scrubStatusView{State: st.Scrub.State, Nodes: st.Scrub.Nodes, NodesTotal: st.Scrub.Of, EndedAt: stamp(st.Scrub.EndedAt)},
		PendingOrphans: st.PendingOrphans, EventsDropped: st.EventsDropped,
		Ledger:        s.viewLedger(),
		AttachRefused: s.opt.AttachRefused,
	}
	if st.Degraded != nil {
		v.Error = st.Degraded.Error()
	}
	if st.Freeze != nil {
		v.Freeze.v = viewRecord(st.Freeze)
	}
	if st.LastFreeze != nil {
		v.LastFreeze.v = viewRecord(st.LastFreeze)
	}
	if s.opt.Attach != nil {
		v.Attach.v = &attachView{Socket: s.opt.Attach.Socket(), Clients: s.opt.Attach.Clients()}
	}
	if s.opt.Mount != nil {
		if m := s.opt.Mount.Status(); m.Ended {
			v.MountEnded = m.Dir
		} else {
			v.Mount.v = viewMount(&m)
		}
	}
	return writeJSON(w, r, http.StatusOK, v)
}

// viewLedger shows the ledger's health.
func (s *Server) viewLedger() ledgerView {
	if s.opt.Ledger == nil {
		return ledgerView{State: "none"}
	}
	health, reason := s.opt.Ledger.Health()
	v := ledgerView{State: string(health), Path: s.opt.Ledger.Path()}
	if health != store.OK {
		v.Reason = reason
	}
	return v
}
