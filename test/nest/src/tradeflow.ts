import 'reflect-metadata';
import { Controller, HttpException, Module } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { Ctx, EventPattern, MessagePattern, NatsContext, Payload, RpcException, type MicroserviceOptions } from '@nestjs/microservices';
import { from, type Observable } from 'rxjs';
import { setTimeout as pause } from 'node:timers/promises';
import { connection } from './connection';

let created = 0;

@Controller()
class TradeflowController {
  @MessagePattern({ cmd: 'findAll', area: 'tradeflow' })
  findAll(@Payload() data: unknown, @Ctx() ctx: NatsContext) {
    return { got: data, subject: ctx.getSubject(), instance: process.env.FAIRLEAD_INSTANCE };
  }

  @MessagePattern('auth.login')
  login(@Payload() data: unknown) {
    return { token: 't', d: data };
  }

  @MessagePattern('time.*')
  time(@Ctx() ctx: NatsContext) {
    return ctx.getSubject();
  }

  @MessagePattern('tradeflow.slow')
  async slow(@Payload() data: { n?: number }) {
    await pause(20);
    return { n: data?.n ?? null, instance: process.env.FAIRLEAD_INSTANCE };
  }

  @MessagePattern('stream')
  stream(): Observable<number> {
    return from([1, 2, 3]);
  }

  @MessagePattern('undef')
  undef() {}

  @MessagePattern('nul')
  nul() {
    return null;
  }

  @MessagePattern('err.rpcstr')
  rpcString() {
    throw new RpcException('Invalid credentials.');
  }

  @MessagePattern('err.rpcobj')
  rpcObject() {
    throw new RpcException({ statusCode: 409, message: 'dup' });
  }

  @MessagePattern('err.http')
  http() {
    throw new HttpException('nope', 403);
  }

  @MessagePattern('err.plain')
  plain() {
    throw new Error('inside: secret host 10.0.0.7');
  }

  @EventPattern('user.created')
  userCreated() {
    created++;
  }

  @MessagePattern('user.count')
  count() {
    return created;
  }

  @MessagePattern('who')
  who(@Ctx() ctx: NatsContext) {
    const headers = ctx.getHeaders();
    return {
      requestId: headers?.get('X-Request-Id') ?? null,
      traceparent: headers?.get('Traceparent') ?? null,
      identity: Boolean(headers?.get('Fairlead-Identity')),
      forged: headers?.get('X-Forged') ?? null,
    };
  }
}

@Module({ controllers: [TradeflowController] })
class TradeflowModule {}

async function main() {
  const app = await NestFactory.createMicroservice<MicroserviceOptions>(TradeflowModule, connection('tradeflow_queue'));
  await app.listen();
}

void main();
