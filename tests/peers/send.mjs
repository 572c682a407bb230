// Sends one mail with nodemailer. Standard input: a JSON object { port, secure, requireTLS, ca, user, password, method,
// from, to, eightBit, message (base64) }.
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';

// nodemailer lies where `tests/peers/install` put it.
const nodemailer = createRequire(`${process.env.PEERS_NODE}/`)('nodemailer');
const job = JSON.parse(readFileSync(0, 'utf8'));
const transport = nodemailer.createTransport({
    host: '127.0.0.1',
    name: 'nodemailer.test',
    port: job.port,
    secure: job.secure,
    requireTLS: job.requireTLS,
    ignoreTLS: !job.requireTLS,
    tls: { ca: readFileSync(job.ca), servername: 'localhost', rejectUnauthorized: true },
    authMethod: job.method,
    auth: job.user ? { user: job.user, pass: job.password } : undefined,
});
try {
    await transport.sendMail({
        envelope: { from: job.from, to: job.to, use8BitMime: job.eightBit },
        raw: Buffer.from(job.message, 'base64'),
    });
} catch (error) {
    console.error(error);
    process.exitCode = 1;
}
transport.close();
