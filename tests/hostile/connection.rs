//! API servers that fail below and at HTTP.

use std::time::Duration;

use crate::fake::{Fake, On, closed};
use crate::trial::{Behaviour, Trial};

/// Bytes in which nothing repeats and nothing means anything, the same each time.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_u32;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()[0]
    })
    .take(length)
    .collect()
}

/// Every request gets this status.
fn always(status: u16) -> Trial {
    Trial::of(Fake::new().on(On::Every, move |_, _, conn| {
        conn.status(status, "as always")
    }))
}

/// Every connection gets these bytes after its first request, and is then closed.
fn once(bytes: &'static [u8]) -> Trial {
    Trial::of(Fake::new().on(On::Connection, move |_, _, conn| {
        conn.request()?;
        conn.raw(bytes)
    }))
}

pub(crate) const TABLE: &[Behaviour] = &[
    ("never answers", || {
        Trial::of(Fake::new().on(On::Connection, |_, _, conn| conn.idle()))
    }),
    ("closes at once", || {
        Trial::of(Fake::new().on(On::Connection, |_, _, _| Ok(())))
    }),
    ("closes after the request", || once(b"")),
    ("garbage instead of HTTP", || {
        Trial::of(Fake::new().on(On::Connection, |_, _, conn| {
            conn.some()?;
            conn.raw(&noise(65536))
        }))
    }),
    ("endless garbage", || {
        Trial::of(Fake::new().on(On::Connection, |_, _, conn| {
            conn.some()?;
            let block = noise(65536);
            loop {
                conn.raw(&block)?;
            }
        }))
    }),
    ("plain HTTP on the TLS port", || {
        let fake = Fake::new().on(On::Connection, |_, _, conn| {
            conn.some()?;
            conn.raw(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        });
        Trial::of(fake.with(|fake| fake.is_plain = true))
    }),
    ("garbage on the TLS port", || {
        let fake = Fake::new().on(On::Connection, |_, _, conn| {
            conn.some()?;
            conn.raw(&noise(4096))
        });
        Trial::of(fake.with(|fake| fake.is_plain = true))
    }),
    ("TLS handshake never ends", || {
        let fake = Fake::new().on(On::Connection, |_, _, conn| conn.idle());
        Trial::of(fake.with(|fake| fake.is_plain = true))
    }),
    ("TLS alerts without end", || {
        let fake = Fake::new().on(On::Connection, |_, _, conn| {
            conn.some()?;
            loop {
                conn.raw(&[21, 3, 3, 0, 2, 1, 90].repeat(1000))?;
            }
        });
        Trial::of(fake.with(|fake| fake.is_plain = true))
    }),
    ("header bytes one by one", || {
        Trial::of(Fake::new().on(On::Connection, |_, _, conn| {
            conn.request()?;
            for byte in b"HTTP/1.1 200 OK\r\nX-Long: "
                .iter()
                .chain(std::iter::repeat(&b'a'))
            {
                conn.raw(&[*byte])?;
                std::thread::sleep(Duration::from_millis(300));
            }
            Ok(())
        }))
    }),
    ("endless headers", || {
        Trial::of(Fake::new().on(On::Connection, |_, _, conn| {
            conn.request()?;
            conn.raw(b"HTTP/1.1 200 OK\r\n")?;
            let line = format!("X-A: {}\r\n", "a".repeat(8000));
            loop {
                conn.raw(line.as_bytes())?;
            }
        }))
    }),
    ("one endless header", || {
        Trial::of(Fake::new().on(On::Connection, |_, _, conn| {
            conn.request()?;
            conn.raw(b"HTTP/1.1 200 OK\r\nX-A: ")?;
            let block = [b'a'; 65536];
            loop {
                conn.raw(&block)?;
            }
        }))
    }),
    ("interim answers without end", || {
        Trial::of(Fake::new().on(On::Connection, |_, _, conn| {
            conn.request()?;
            let block = b"HTTP/1.1 100 Continue\r\n\r\n".repeat(100);
            loop {
                conn.raw(&block)?;
            }
        }))
    }),
    ("early hints without end", || {
        Trial::of(Fake::new().on(On::Connection, |_, _, conn| {
            conn.request()?;
            let block = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n".repeat(100);
            loop {
                conn.raw(&block)?;
            }
        }))
    }),
    ("redirects to loopback", || {
        Trial::of(Fake::new().on(On::Every, |_, _, conn| {
            let headers = [
                "Location: http://127.0.0.1:1/elsewhere",
                "Content-Length: 0",
            ];
            conn.head(302, &headers)
        }))
    }),
    ("redirects to itself", || {
        Trial::of(Fake::new().on(On::Every, |_, request, conn| {
            let to = format!("Location: {}", request.target());
            conn.head(307, &[&to, "Content-Length: 0"])
        }))
    }),
    ("redirects into a file", || {
        Trial::of(Fake::new().on(On::Every, |_, _, conn| {
            conn.head(301, &["Location: file:///etc/passwd", "Content-Length: 0"])
        }))
    }),
    ("switches protocols", || {
        Trial::of(Fake::new().on(On::Every, |_, _, conn| {
            conn.head(101, &["Upgrade: websocket", "Connection: Upgrade"])?;
            conn.raw(&noise(1000))
        }))
    }),
    ("204 to everything", || {
        Trial::of(Fake::new().on(On::Every, |_, _, conn| conn.head(204, &[])))
    }),
    ("304 to everything", || {
        Trial::of(Fake::new().on(On::Every, |_, _, conn| conn.head(304, &[])))
    }),
    ("401 to everything", || always(401)),
    ("403 to everything", || always(403)),
    ("404 to everything", || always(404)),
    ("409 to everything", || always(409)),
    ("410 to everything", || always(410)),
    ("429 to everything", || always(429)),
    ("429 for an hour", || {
        Trial::of(Fake::new().on(On::Every, |_, _, conn| {
            conn.head(429, &["Retry-After: 3600", "Content-Length: 0"])
        }))
    }),
    ("500 to everything", || always(500)),
    ("503 to everything", || always(503)),
    ("999 to everything", || always(999)),
    ("status line without a number", || {
        once(b"HTTP/1.1 abc OK\r\n\r\n")
    }),
    ("HTTP of another age", || once(b"HTTP/0.9 200 OK\r\n\r\n{}")),
    ("HTTP/2 unasked", || {
        once(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
    }),
    ("less than its length", || {
        Trial::of(Fake::new().on(On::System, |_, _, conn| {
            conn.head(200, &["Content-Length: 10000"])?;
            conn.raw(b"{\"metadata\":{\"uid\":\"x\"}}")?;
            Err(closed())
        }))
    }),
    ("two lengths", || {
        Trial::of(Fake::new().on(On::Every, |_, _, conn| {
            conn.head(200, &["Content-Length: 2", "Content-Length: 5"])?;
            conn.raw(b"{}abc")
        }))
    }),
    ("negative length", || {
        Trial::of(Fake::new().on(On::Every, |_, _, conn| {
            conn.head(200, &["Content-Length: -1"])?;
            conn.raw(b"{}")
        }))
    }),
    ("length of an exabyte", || {
        Trial::of(Fake::new().on(On::Every, |_, _, conn| {
            conn.head(200, &["Content-Length: 1000000000000000000"])?;
            conn.raw(b"{}")?;
            conn.idle()
        }))
    }),
    ("length and chunks", || {
        Trial::of(Fake::new().on(On::Every, |_, _, conn| {
            conn.head(200, &["Content-Length: 5", "Transfer-Encoding: chunked"])?;
            conn.raw(b"0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n")
        }))
    }),
    ("an answer ahead of its request", || {
        Trial::of(Fake::new().on(On::System, |fake, request, conn| {
            fake.plainly(On::System, request, conn)?;
            let next = b"{\"items\":[]}";
            conn.bytes(200, next)?;
            conn.bytes(200, next)
        }))
    }),
    ("huge chunk", || {
        Trial::of(Fake::new().on(On::Every, |_, _, conn| {
            conn.chunked()?;
            conn.raw(b"ffffffffffffffff\r\n{}")?;
            conn.idle()
        }))
    }),
    ("chunk of no size", || {
        Trial::of(Fake::new().on(On::Every, |_, _, conn| {
            conn.chunked()?;
            conn.raw(b"xyz\r\n{}\r\n0\r\n\r\n")
        }))
    }),
    ("endless chunk extension", || {
        Trial::of(Fake::new().on(On::Every, |_, _, conn| {
            conn.chunked()?;
            conn.raw(b"1;")?;
            let block = [b'x'; 65536];
            loop {
                conn.raw(&block)?;
            }
        }))
    }),
    ("endless trailers", || {
        Trial::of(Fake::new().on(On::Every, |_, _, conn| {
            conn.chunked()?;
            conn.chunk(b"{}")?;
            conn.raw(b"0\r\n")?;
            let line = b"X-T: y\r\n".repeat(1000);
            loop {
                conn.raw(&line)?;
            }
        }))
    }),
    ("compressed bomb", || {
        Trial::of(Fake::new().on(On::System, |_, _, conn| {
            // A gzip member of stored blocks would be as long as what it holds; a run of one deflate symbol is not.
            let bomb = bomb();
            let length = format!("Content-Length: {}", bomb.len());
            conn.head(
                200,
                &[
                    "Content-Encoding: gzip",
                    "Content-Type: application/json",
                    &length,
                ],
            )?;
            conn.raw(&bomb)
        }))
    }),
    ("a page to log in", || {
        Trial::of(Fake::new().on(On::Every, |_, _, conn| {
            conn.typed(
                200,
                "text/html",
                b"<html><script>alert(1)</script>log in</html>",
            )
        }))
    }),
    ("escapes in the status message", || {
        Trial::of(Fake::new().on(On::Every, |_, _, conn| {
            conn.status(403, crate::fake::ESCAPES)
        }))
    }),
    ("a status message of 10 MB", || {
        Trial::of(Fake::new().on(On::Every, |_, _, conn| {
            conn.status(403, &"denied ".repeat(1_500_000))
        }))
    }),
    ("escapes in the reason phrase", || {
        once(b"HTTP/1.1 403 \x1b]0;owned\x07\x1b[2J\r\nContent-Length: 0\r\n\r\n")
    }),
    ("fails every other request", || {
        Trial::of(Fake::new().on(On::Every, |fake, request, conn| {
            if fake.asked().len() % 2 == 0 {
                return conn.status(500, "this one not");
            }
            match crate::fake::about(request) {
                Some(what) => fake.plainly(what, request, conn),
                None => conn.status(404, "not here"),
            }
        }))
    }),
];

/// A gzip file of some 270 KB that holds 256 MiB of spaces: fixed Huffman codes, each the longest match of the last byte.
fn bomb() -> Vec<u8> {
    let mut bits = Bits::default();
    bits.put(0b011, 3);
    bits.code(0x30 + 0x20, 8);
    for _ in 0..(256 << 20) / 258 {
        bits.code(0b1100_0101, 8);
        bits.code(0, 5);
    }
    bits.code(0, 7);
    let mut file = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    file.extend(bits.bytes);
    file.extend([0; 8]);
    file
}

#[derive(Default)]
struct Bits {
    bytes: Vec<u8>,
    used: u32,
}

impl Bits {
    /// The lowest bits of a number, lowest first.
    fn put(&mut self, bits: u32, count: u32) {
        for position in 0..count {
            if self.used.is_multiple_of(8) {
                self.bytes.push(0);
            }
            let last = self.bytes.last_mut().unwrap();
            *last |= u8::from(bits >> position & 1 == 1) << (self.used % 8);
            self.used += 1;
        }
    }

    /// A Huffman code, whose highest bit comes first.
    fn code(&mut self, code: u32, count: u32) {
        for position in (0..count).rev() {
            self.put(code >> position & 1, 1);
        }
    }
}
