//! `floater ping`: a few echoes to a few addresses.

use std::io::Write as _;
use std::net::IpAddr;
use std::process::ExitCode;
use std::time::Duration;

use crate::error::Error;
use crate::stats::Recorder;

/// What to ping and how.
#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// Addresses, of either family.
    #[arg(required = true, value_name = "ADDR")]
    addresses: Vec<IpAddr>,
    /// Echo requests to each.
    #[arg(short, long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=1000))]
    count: u16,
    /// Milliseconds to wait for an answer.
    #[arg(short = 'W', long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    timeout_ms: u64,
}

/// Pings all of them at once, prints a line each.
pub(super) fn ping(options: &Options) -> Result<ExitCode, Error> {
    super::runtime()?.block_on(async {
        let lines = options
            .addresses
            .iter()
            .enumerate()
            .map(|(at, address)| one(*address, u16::try_from(at).unwrap_or(u16::MAX), options));
        let mut all = true;
        for (line, answered) in futures::future::try_join_all(lines).await? {
            all &= answered;
            if writeln!(std::io::stdout(), "{line}").is_err() {
                break;
            }
        }
        Ok(if all {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    })
}

async fn one(address: IpAddr, identifier: u16, options: &Options) -> Result<(String, bool), Error> {
    let kind = if address.is_ipv4() {
        surge_ping::ICMP::V4
    } else {
        surge_ping::ICMP::V6
    };
    let client = surge_ping::Client::new(&surge_ping::Config::builder().kind(kind).build())
        .map_err(|source| Error::Socket {
            doing: "open an ICMP socket".to_owned(),
            source,
        })?;
    let mut pinger = client
        .pinger(address, surge_ping::PingIdentifier(identifier))
        .await;
    pinger.timeout(Duration::from_millis(options.timeout_ms));
    let (mut times, mut received, mut last) = (Recorder::default(), 0, None);
    for sequence in 0..options.count {
        match pinger
            .ping(surge_ping::PingSequence(sequence), &[0; 56])
            .await
        {
            Ok((packet, rtt)) if is_reply(&packet) => {
                received += 1;
                times.record(u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX));
            }
            // The library hands out errors as if they were answers.
            Ok((packet, _)) => last = Some(format!("{packet:?}")),
            Err(error) => last = Some(error.to_string()),
        }
    }
    let times = times.rtt().map_or_else(
        || last.unwrap_or_default(),
        |rtt| {
            format!(
                "min/p50/max {}/{}/{} µs",
                rtt.min_us, rtt.p50_us, rtt.max_us
            )
        },
    );
    let line = format!(
        "{address}: {received} of {} answered, {times}",
        options.count
    );
    Ok((line, received > 0))
}

fn is_reply(packet: &surge_ping::IcmpPacket) -> bool {
    match packet {
        surge_ping::IcmpPacket::V4(packet) => {
            packet.get_icmp_type() == pnet_packet::icmp::IcmpTypes::EchoReply
        }
        surge_ping::IcmpPacket::V6(packet) => {
            packet.get_icmpv6_type() == pnet_packet::icmpv6::Icmpv6Types::EchoReply
        }
    }
}
