//! The payload on the wire: what pillion says and hears of `sparkplug_b.proto` (Sparkplug 3.0, section 6.4.1).
//!
//! Fields that are not here (metadata, properties, data sets, templates) are never sent, and passed over when they come.

/// `Payload`
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Payload {
    /// When it was sent, in milliseconds since 1970.
    #[prost(uint64, optional, tag = "1")]
    pub(super) timestamp: Option<u64>,
    #[prost(message, repeated, tag = "2")]
    pub(super) metrics: Vec<Metric>,
    /// 0 to 255, round and round.
    #[prost(uint64, optional, tag = "3")]
    pub(super) seq: Option<u64>,
}

/// `Payload.Metric`
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Metric {
    #[prost(string, optional, tag = "1")]
    pub(super) name: Option<String>,
    /// When it was measured, in milliseconds since 1970.
    #[prost(uint64, optional, tag = "3")]
    pub(super) timestamp: Option<u64>,
    #[prost(uint32, optional, tag = "4")]
    pub(super) datatype: Option<u32>,
    #[prost(bool, optional, tag = "5")]
    pub(super) is_historical: Option<bool>,
    #[prost(bool, optional, tag = "7")]
    pub(super) is_null: Option<bool>,
    #[prost(oneof = "Field", tags = "10, 11, 12, 13, 14, 15, 16")]
    pub(super) value: Option<Field>,
}

/// `Payload.Metric.value`
#[derive(Clone, PartialEq, prost::Oneof)]
pub(super) enum Field {
    #[prost(uint32, tag = "10")]
    Int(u32),
    /// Negative ones as their two's complement.
    #[prost(uint64, tag = "11")]
    Long(u64),
    #[prost(float, tag = "12")]
    Float(f32),
    #[prost(double, tag = "13")]
    Double(f64),
    #[prost(bool, tag = "14")]
    Boolean(bool),
    #[prost(string, tag = "15")]
    Text(String),
    #[prost(bytes = "vec", tag = "16")]
    Bytes(Vec<u8>),
}
