import 'reflect-metadata';
import { Body, Controller, Get, Inject, Module, Post } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { ClientProxy, ClientsModule } from '@nestjs/microservices';
import { firstValueFrom } from 'rxjs';
import { connection } from './connection';

// A NestJS program that is a client on the bus and serves HTTP behind the door.
@Controller('nest')
class WebController {
  constructor(@Inject('TRADEFLOW') private readonly tradeflow: ClientProxy) {}

  @Get('flows')
  flows() {
    return this.tradeflow.send({ cmd: 'findAll', area: 'tradeflow' }, { hs: '8517' });
  }

  @Get('stream')
  stream() {
    return this.tradeflow.send('stream', {});
  }

  @Post('users')
  async users(@Body() body: unknown) {
    await firstValueFrom(this.tradeflow.emit('user.created', body), { defaultValue: undefined });
    return { emitted: true };
  }
}

@Module({
  imports: [ClientsModule.register([{ name: 'TRADEFLOW', ...connection() }])],
  controllers: [WebController],
})
class WebModule {}

async function main() {
  const app = await NestFactory.create(WebModule);
  await app.listen(Number(process.env.PORT), '127.0.0.1');
}

void main();
