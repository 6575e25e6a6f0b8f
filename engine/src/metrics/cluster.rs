//! What a node of a cluster counts.

use super::metrics;

metrics! {
    /// What a node of a cluster counts; its thread for the cluster alone writes them.
    pub struct ClusterMetrics as CLUSTER {
        /// 1 while the node reaches NATS.
        gauge cluster_reached;
        /// Nodes of the cluster that are heard, with this one.
        gauge cluster_nodes;
        /// Links to other nodes that are up.
        gauge cluster_links;
        /// Links that went down: what waited for an answer was told so.
        counter cluster_links_lost_total;
        /// Slots that this node owns.
        gauge cluster_slots;
        /// Slots that no node owns for the moment.
        gauge cluster_slots_unowned;
        /// Slots that this node has taken over.
        counter cluster_takeovers_total;
        /// Messages sent to JetStream that are not acknowledged.
        gauge cluster_appends_in_flight;
        /// Messages that JetStream has acknowledged.
        counter cluster_appends_total;
        /// Messages that JetStream has not taken.
        counter cluster_appends_refused_total;
        /// Messages of which it will not be known whether JetStream has them.
        counter cluster_appends_unknown_total;
        /// Mail sent to other nodes.
        counter cluster_mail_total;
        /// Bytes of mail to other nodes that these have not confirmed.
        gauge cluster_mail_in_flight_bytes;
        /// Mail of other nodes that waits for room in the mailboxes of shards.
        gauge cluster_mail_waiting;
    }
}
