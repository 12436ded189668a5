import { Transport, type NatsOptions } from '@nestjs/microservices';

// The only thing that a NestJS program changes to run behind the door: its
// connection's options come from the environment. nats.js takes only host and
// port from a URL, hence user and password apart.
export function connection(queue?: string): NatsOptions {
  return {
    transport: Transport.NATS,
    options: {
      servers: [process.env.NATS_URL ?? 'nats://127.0.0.1:4222'],
      user: process.env.NATS_USER,
      pass: process.env.NATS_PASSWORD,
      inboxPrefix: process.env.NATS_INBOX_PREFIX,
      maxReconnectAttempts: -1,
      reconnectTimeWait: 50,
      queue,
    },
  };
}
