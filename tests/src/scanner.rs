//! clamd and rspamd as a test has them: each mail is shown to a function, which says what is answered.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// What is answered to a mail. A `#` in clamd's answer is the number of the question.
#[derive(Debug, Clone)]
pub enum Says {
    This(String),
    /// Nothing, and the connection stays open.
    Nothing,
    /// More and more.
    Endless,
}

/// A question: the header of rspamd's request (empty for clamd's), and the mail.
#[derive(Debug, Clone)]
pub struct Asked {
    pub head: String,
    pub mail: Vec<u8>,
}

pub struct Scanner {
    pub port: u16,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Scanner {
    /// # Errors
    /// No port is free.
    pub async fn clamd(says: impl Fn(&[u8]) -> Says + Send + Sync + 'static) -> io::Result<Self> {
        let says = Arc::new(says);
        Self::start(move |mut stream, asked| {
            let says = says.clone();
            async move {
                stream.read_exact(&mut [0; "zIDSESSION\0".len()]).await?;
                for number in 1.. {
                    let mail = streamed(&mut stream).await?;
                    let answer = match says(&mail) {
                        Says::This(text) => Says::This(text.replace('#', &number.to_string())),
                        other => other,
                    };
                    note(&asked, Asked { head: String::new(), mail });
                    answer_with(&mut stream, answer).await?;
                }
                Ok(())
            }
        })
        .await
    }

    /// `says` gives the JSON of the answer.
    ///
    /// # Errors
    /// No port is free.
    pub async fn rspamd(says: impl Fn(&[u8]) -> Says + Send + Sync + 'static) -> io::Result<Self> {
        let says = Arc::new(says);
        Self::start(move |mut stream, asked| {
            let says = says.clone();
            async move {
                loop {
                    let (head, mail) = request(&mut stream).await?;
                    let answer = match says(&mail) {
                        Says::This(json) => Says::This(format!(
                            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{json}",
                            json.len()
                        )),
                        other => other,
                    };
                    note(&asked, Asked { head, mail });
                    answer_with(&mut stream, answer).await?;
                }
            }
        })
        .await
    }

    /// What it was asked so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn start<F: Future<Output = io::Result<()>> + Send>(
        serve: impl Fn(TcpStream, Arc<Mutex<Vec<Asked>>>) -> F + Clone + Send + 'static,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let scanner = Self { port: listener.local_addr()?.port(), asked: Arc::default() };
        let asked = scanner.asked.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (serve, asked) = (serve.clone(), asked.clone());
                // It ends when the gateway closes.
                tokio::spawn(async move { serve(stream, asked).await });
            }
        });
        Ok(scanner)
    }
}

fn note(asked: &Mutex<Vec<Asked>>, question: Asked) {
    asked.lock().unwrap_or_else(PoisonError::into_inner).push(question);
}

async fn answer_with(stream: &mut TcpStream, answer: Says) -> io::Result<()> {
    match answer {
        Says::This(text) => stream.write_all(text.as_bytes()).await,
        Says::Nothing => stream.read_to_end(&mut Vec::new()).await.map(drop),
        Says::Endless => loop {
            stream.write_all(&[b'x'; 65_536]).await?;
        },
    }
}

/// `INSTREAM`: pieces with their lengths, the last one empty.
async fn streamed(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    stream.read_exact(&mut [0; "zINSTREAM\0".len()]).await?;
    let mut mail = Vec::new();
    loop {
        let len = stream.read_u32().await?;
        if len == 0 {
            return Ok(mail);
        }
        stream.take(len.into()).read_to_end(&mut mail).await?;
    }
}

async fn request(stream: &mut TcpStream) -> io::Result<(String, Vec<u8>)> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8(head).map_err(io::Error::other)?;
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok()).unwrap_or(0);
    let mut mail = vec![0; length];
    stream.read_exact(&mut mail).await?;
    Ok((head, mail))
}
